"""How far two tasks use the same heads: the overlap of their circuits beside chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probe.circuits.controls import Chosen, any_matched, hypergeometric, size
from probe.circuits.joining import joined_report
from probe.circuits.reporting import Told, labelled
from probe.circuits.study import CircuitOptions, Pairs
from probe.circuits.table import full_name, method
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report
from probe.report.ranking import cells

PAPER = "Merullo et al. 2024 (arXiv:2310.08744)"
BIBTEX = """@inproceedings{merullo2024circuit,
  title={Circuit Component Reuse Across Tasks in Transformer Language Models},
  author={Merullo, Jack and Eickhoff, Carsten and Pavlick, Ellie},
  booktitle={International Conference on Learning Representations},
  year={2024}
}"""
DRAWS = 2000


def circuit_overlap(
    model: object,
    pairs: Pairs = "ioi",
    other: Pairs = "colored_objects",
    *,
    by: str = "path_patching",
    top: int = 20,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """How many of the heads that one task uses another one uses too, beside random sets of the same size.

    A task's circuit are the `top` heads of largest absolute effect by one method. ``share = |A ∩ B| / min(|A|, |B|)``,
    0 to 1. Chance is the overlap of random heads, anywhere (hypergeometric) and, more strictly, in the layers of the
    second circuit, since circuits of any two tasks lie in similar layers.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: The first task, or its pairs.
        other: The second task, or its pairs.
        by: The method that ranks heads, by name; its map must be per head.
        top: Heads of each circuit, at least 1.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``circuit_overlap:by=…,top=…``; its map says in how many of the two a head is.
        ``extra`` holds ``scores`` and ``in_circuit`` (task, layer, head) and ``overlap`` (number): ``shared``,
        ``share``, ``expected``, ``chance`` of so many or more anywhere, ``expected_in_layers``,
        ``chance_in_layers``, and ``correlation`` of the absolute scores (Pearson).

    Raises:
        UsageError: a method without a map per head, too many heads, or a model that does not solve a task.
        UnknownNameError: no such method.
    """
    asked = CircuitOptions.of(options, changes)
    ranking = method(full_name(by))
    loaded = as_loaded(model)
    reports = [ranking(loaded, task, options=asked) for task in (pairs, other)]
    maps = [report.answers[0].head_map for report in reports]
    names = _names([str(report.provenance.settings["task"]) for report in reports])
    circuits = [top_heads(one, top, by) for one in maps]
    numbers = overlap(circuits, maps, asked.seed)
    told = Told(
        f"circuit_overlap:by={full_name(by)},top={top}",
        f"In how many of the circuits of {names[0]} and {names[1]} a head is (0, 1 or 2)",
        "circuits", PAPER, BIBTEX,
    )  # fmt: skip
    flags = np.stack([in_circuit(one, like) for one, like in zip(circuits, maps, strict=True)])
    axes = {"layer": maps[0].coords["layer"].values, "head": maps[0].coords["head"].values}
    extra = {
        "scores": labelled(np.stack([one.values for one in maps]), task=names, **axes),
        "in_circuit": labelled(flags, task=names, **axes),
        "overlap": labelled(np.array(list(numbers.values())), number=list(numbers)),
    }
    answer = told.answer(maps[0].copy(data=flags.sum(0)), extra=extra, notes=_notes(numbers, names))
    return joined_report(reports, [answer], {"method": "circuit_overlap", "by": by, "top": top})


def top_heads(head_map: xr.DataArray, top: int, by: str) -> dict[int, tuple[int, ...]]:
    """The heads of largest absolute value, by layer; heads of no effect at all are in no circuit.

    Raises:
        UsageError: the map is not per head, or has fewer heads.
    """
    if head_map.dims != ("layer", "head"):
        raise UsageError(
            f"heads were to be ranked by {by}; its map has axes {', '.join(map(str, head_map.dims))}: use a "
            "method whose map is per head, such as path_patching"
        )
    ranked = sorted(cells(head_map), key=lambda one: -abs(one[2]))
    usable = [(layer, head) for layer, head, value in ranked if np.isfinite(value) and value != 0]
    if not 1 <= top <= len(usable):
        raise UsageError(
            f"top={top} heads were asked; by {by} {len(usable)} heads have an effect: ask for 1 to that many"
        )
    chosen: dict[int, list[int]] = {}
    for layer, head in usable[:top]:
        chosen.setdefault(layer, []).append(head)
    return {layer: tuple(sorted(heads)) for layer, heads in sorted(chosen.items())}


def overlap(circuits: Sequence[Chosen], maps: Sequence[xr.DataArray], seed: int = 0) -> dict[str, float]:
    """The overlap of two circuits and what chance gives, by name; see `circuit_overlap`."""
    first, second = circuits
    counts = {int(layer): 0 for layer in maps[0].coords["layer"].values}
    for layer, _, _ in cells(maps[0]):
        counts[layer] += 1
    shared = _shared(first, second)
    expected, chance = hypergeometric(sum(counts.values()), size(first), size(second), shared)
    drawn = np.random.default_rng(seed)
    random = np.array([_shared(first, any_matched(second, counts, drawn)) for _ in range(DRAWS)])
    return {
        "shared": float(shared),
        "share": shared / min(size(first), size(second)),
        "expected": expected,
        "chance": chance,
        "expected_in_layers": float(random.mean()),
        "chance_in_layers": (1 + float((random >= shared).sum())) / (1 + DRAWS),
        "correlation": _correlation(*(one.values for one in maps)),
    }


def in_circuit(circuit: Chosen, like: xr.DataArray) -> np.ndarray:
    """1 for heads of a circuit, 0 for others, on the axes of a map."""
    flags = xr.zeros_like(like, dtype=float)
    for layer, heads in circuit.items():
        for head in heads:
            flags.loc[{"layer": layer, "head": head}] = 1.0
    return flags.values


def _shared(first: Chosen, second: Chosen) -> int:
    return sum(len(set(heads) & set(second.get(layer, ()))) for layer, heads in first.items())


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    values = np.abs(one[both]), np.abs(other[both])
    return float(np.corrcoef(*values)[0, 1]) if min(value.std() for value in values) > 0 else float("nan")


def _names(tasks: list[str]) -> list[str]:
    return tasks if tasks[0] != tasks[1] else [f"{tasks[0]} (first)", f"{tasks[1]} (second)"]


def _notes(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [
        f"{numbers['shared']:.0f} heads are in both circuits ({names[0]}, {names[1]}), {numbers['share']:.0%}; of "
        f"random heads {numbers['expected']:.1f} (chance of so many: {numbers['chance']:.2g}), of random heads of the "
        f"same layers {numbers['expected_in_layers']:.1f} (chance {numbers['chance_in_layers']:.2g})"
    ]
