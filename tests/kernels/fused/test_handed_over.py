"""What the Triton backend hands to the torch path, and what it still computes itself beside it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_problems import tolerance
from fused_problems import DEVICE, agrees, everything, fused, poisoned_outputs, small
from probe_kernels import BlockEdit, Edits, Want, attend, sweep
from probe_kernels.testing import assert_attended_close, assert_close
from probe_kernels.visit import Visit
from torch import Tensor


def halved(block: Tensor, rows: slice, keys: slice) -> Tensor:
    """Every third key's share halved."""
    at = torch.arange(keys.start, keys.stop, device=block.device) % 3 == 0
    return torch.where(at, block * 0.5, block)


@pytest.mark.parametrize("heads", [(1,), (0, 1, 2, 3), None])
def test_edited_heads_answer_as_on_torch(
    heads: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z and every statistic of edited heads; the others stay the kernels'."""
    problem = small("sliding", kv_heads=2)
    want = replace(everything(problem), table=0)
    edits = Edits(probs=(BlockEdit(halved, heads),))
    with poisoned_outputs(monkeypatch) as started:
        found = fused(problem, want, edits=edits)
    wanted = attend(problem.scores, problem.layout, want, edits=edits, backend="torch")
    assert_attended_close(found, wanted, tolerance=2 * tolerance(problem))
    assert bool(started) == (heads == (1,))


def test_gradients_are_those_of_torch() -> None:
    """z carries the gradient of q, k, v, sinks and bias; statistics carry none and are the kernels'."""
    problem = small(bias=True, sinks=1)
    names = ("query", "key", "value", "sinks", "bias")
    want = Want(lse=True, entropy=True)
    gradients, answers = [], []
    for backend in ("torch", "triton"):
        tensors = {name: getattr(problem.scores, name).clone().requires_grad_() for name in names}
        out = attend(replace(problem.scores, **tensors), problem.layout, want, backend=backend)
        assert out.z is not None
        assert out.entropy is not None
        assert not out.entropy.requires_grad
        (out.z**2).sum().backward()
        gradients.append([tensors[name].grad for name in names])
        answers.append(out)
    assert_attended_close(answers[1], answers[0], tolerance=2 * tolerance(problem))
    for name, a, b in zip(names, *gradients, strict=True):
        assert_close(name, b, a, tolerance=0.0)


def test_functions_over_blocks_see_whole_rows() -> None:
    """Want.rows is asked of the torch path, beside the kernels' own statistics."""
    problem = small(n_query=33, n_key=33)
    want = Want(lse=True, rows={"best": lambda p, _rows, _keys: p.max(-1).values})
    agrees(problem, want)


@pytest.mark.parametrize(
    ("rows", "block", "mask"), [(16, 16, "causal"), (32, 8, "sliding"), (64, 16, "none"), (12, 8, "causal")]
)
def test_a_visit_shows_each_block_its_keys(
    rows: int, block: int, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists per sequence and head, empty ones among them; rows in the kernel, sums over queries beside it."""
    problem = small(mask, batch=2, n_query=40, n_key=50, sinks=1)
    random = torch.Generator().manual_seed(0)
    kept = torch.rand(2, 2, -(-40 // rows), -(-50 // block), generator=random) > 0.4
    kept[0, 0, -1] = False
    visit = Visit.of_blocks(kept.to(DEVICE), rows, block, 50)
    with poisoned_outputs(monkeypatch) as started:
        agrees(problem, replace(everything(problem), table=0, parts=frozenset({"span"})), visit=visit)
    assert bool(started) == (rows != 12)


def test_a_visit_of_shuffled_keys_ranks_them_by_position() -> None:
    """The first n visible keys are told by positions, not by the order of a list."""
    problem = small("causal", n_query=40, n_key=50, shuffled=True)
    kept = torch.rand(1, 1, 3, 50, generator=torch.Generator().manual_seed(1)) > 0.5
    want = Want(lse=True, first=(1, 3), distance=True, top=True)
    agrees(problem, want, visit=Visit.of_keys(kept.to(DEVICE), 16))


def test_the_torch_path_runs_where_the_tensors_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is handed over is moved to another device."""
    devices: list[torch.device] = []
    begin = sweep.attend

    def watched(scores: Any, *arguments: Any, **options: Any) -> Any:
        devices.append(scores.query.device)
        return begin(scores, *arguments, **options)

    monkeypatch.setattr(sweep, "attend", watched)
    problem = small()
    fused(problem, Want(), edits=Edits(probs=(BlockEdit(halved, (0,)),)))
    assert [one.type for one in devices] == [DEVICE.type]
