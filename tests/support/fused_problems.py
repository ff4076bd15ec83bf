"""Attention problems for the Triton kernels: on the GPU where there is one, in the interpreter elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from attention_problems import Problem, make_problem, tolerance, want_all
from probe_kernels import Attended, Edits, Want, attend
from probe_kernels.fused import interpreted, launch
from probe_kernels.mask import Mask, Predicate, Tile
from probe_kernels.testing import assert_attended_close
from probe_kernels.visit import Visit
from torch import Tensor

DEVICE = torch.device("cpu" if interpreted() else "cuda")


def put(value: Any) -> Any:
    """Tensors of a problem, a want or a collection of them, where the kernels run."""
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    if isinstance(value, dict):
        return {key: put(one) for key, one in value.items()}
    if isinstance(value, Mask):
        return Mask(tuple(map(_moved, value.all_of)), tuple(map(_moved, value.any_of)))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: put(getattr(value, one.name)) for one in fields(value)})
    return value


def _moved(predicate: Predicate) -> Predicate:
    """A rule that may hold tensors of its own, asked where they lie."""
    if predicate.twin is not None:
        return predicate

    def visible(tile: Tile) -> Tensor:
        return predicate.visible(Tile(*(_home(getattr(tile, one.name)) for one in fields(Tile)))).to(DEVICE)

    return replace(predicate, visible=visible)


def _home(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def small(mask: str = "causal", **changes: Any) -> Problem:
    """A problem whose heads are wide enough for tensor cores."""
    sizes = {"width": 16, "value_width": 16, "kv_heads": 1, "group": 2, "n_query": 40, "n_key": 40, **changes}
    return put(make_problem(mask=mask, **sizes))


def everything(problem: Problem, table: int = 16) -> Want:
    """Every statistic at once."""
    return put(replace(want_all(problem), table=table))


def fused(
    problem: Problem, want: Want, *, visit: Visit | None = None, edits: Edits | None = None
) -> Attended:
    """The Triton backend's answers."""
    return attend(problem.scores, problem.layout, want, backend="triton", visit=visit, edits=edits)


def agrees(problem: Problem, want: Want, *, visit: Visit | None = None, times: float = 2.0) -> Attended:
    """The Triton backend's answers, held against the float64 reference.

    On a GPU p is rounded to the inputs' precision before it meets the values; the interpreter has no such products.
    """
    found = fused(problem, want, visit=visit)
    wanted = attend(problem.scores, problem.layout, want, backend="reference", visit=visit)
    close = times * tolerance(problem)
    if found.z is not None and wanted.z is not None:
        # Rounding to a low precision may go either way: one unit in the last place.
        rounding = torch.finfo(wanted.z.dtype).eps if wanted.z.dtype != torch.float32 else 0.0
        inside = 0.0 if interpreted() else 2 * rounding
        torch.testing.assert_close(
            found.z, wanted.z, rtol=rounding + close, atol=close + inside, equal_nan=True
        )
        assert_attended_close(
            Attended(parts=found.parts), Attended(parts=wanted.parts), tolerance=close + inside
        )
    rest, wanted = replace(found, z=None, parts={}), replace(wanted, z=None, parts={})
    assert_attended_close(rest, wanted, tolerance=close)
    return found


@contextmanager
def poisoned_outputs(monkeypatch: Any) -> Iterator[list[str]]:
    """While open, every answer that a kernel is to write is full of NaN, or of nonsense, before it starts.

    Not the table: blocks that a row cannot reach are not visited at all.
    """
    begin, started = launch.start, []

    def start(kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        started.append(kernel.__name__)
        rows = kernel.__name__ == "attend_rows"
        for out in _written(arguments[3], arguments[4][5], options) if rows else (arguments[4],):
            out.fill_(torch.nan if out.is_floating_point() else 2**30)
        begin(kernel, grid, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "start", start)
        yield started


def _written(outputs: Any, position_steps: Any, options: dict[str, Any]) -> list[Tensor]:
    """The answers that a launch over rows writes; five steps of positions come before those of its functionals."""
    z, lse, entropy, square, top_p, top, _, masses = outputs
    asked = {
        "WANT_Z": (z,),
        "ENTROPY": (entropy,),
        "SQUARE": (square,),
        "TOP": (top_p, top),
    }
    written = [out for flag, some in asked.items() if options[flag] for out in some]
    return [lse, *written, *([masses] if len(position_steps) > 5 else [])]
