"""What chance would give: as many random heads in the same layers, and the overlap of two random sets."""

from collections.abc import Mapping
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.nodes import Key, Node
from probe.circuits.patching import most_copies, recovery
from probe.circuits.study import Study
from probe.circuits.taps import Write

Chosen = Mapping[int, tuple[int, ...]]  # heads by layer


def matched(
    chosen: Chosen, counts: Mapping[int, int], generator: np.random.Generator
) -> dict[int, tuple[int, ...]]:
    """As many random heads in each layer, others than those chosen where there are enough of them."""
    drawn = {}
    for layer, heads in chosen.items():
        others = [head for head in range(counts[layer]) if head not in heads]
        pool = others if len(others) >= len(heads) else list(range(counts[layer]))
        drawn[layer] = tuple(sorted(generator.choice(pool, len(heads), replace=False).tolist()))
    return drawn


def any_matched(
    chosen: Chosen, counts: Mapping[int, int], generator: np.random.Generator
) -> dict[int, tuple[int, ...]]:
    """As many random heads in each layer, whichever they are."""
    return {
        layer: tuple(sorted(generator.choice(counts[layer], len(heads), replace=False).tolist()))
        for layer, heads in chosen.items()
    }


def hypergeometric(total: int, first: int, second: int, shared: int) -> tuple[float, float]:
    """The expected overlap of two random sets of these sizes among `total`, and the chance of `shared` or more.

    >>> hypergeometric(4, 2, 2, 2)
    (1.0, 0.16666666666666666)
    """
    ways = sum(
        comb(first, n) * comb(total - first, second - n) for n in range(shared, min(first, second) + 1)
    )
    return first * second / total, ways / comb(total, second)


def size(chosen: Chosen) -> int:
    """How many heads a set has."""
    return sum(len(heads) for heads in chosen.values())


def together(case: Study, sets: list[Chosen], at: str | None = None) -> Float[Tensor, "set pair"]:
    """The share of the difference that appears when each set's z of the corrupt run goes into the clean one (noise).

    Args:
        case: Studied pairs.
        sets: Heads that are patched together.
        at: A mark; None = all positions at once.
    """
    parts = [
        torch.cat([_patched(case, batch, few, at) for few in _few(case, batch, sets)])
        for batch in case.batches
    ]
    return recovery(case, case.joined(parts), "clean")


def _few(case: Study, batch: Batch, sets: list[Chosen]) -> list[list[Chosen]]:
    step = most_copies(case, batch)
    return [sets[start : start + step] for start in range(0, len(sets), step)]


def _patched(case: Study, batch: Batch, sets: list[Chosen], at: str | None) -> Tensor:
    trace = case.engine.record(batch, "corrupt", ["z"])
    place = torch.ones(1, batch.length, dtype=torch.bool) if at is None else batch.positions(at)
    logits = (
        case.engine.patched(batch, "clean", masked_writes(trace.value, "z", sets, place), len(sets))
        if any(sets)
        else case.logits[batch, "clean"].expand(len(sets), -1, -1)
    )
    return case.numbers(batch, logits)


def masked_writes(value: object, node: Node, sets: list[Chosen], place: Tensor) -> dict[Key, Write]:
    """Writes of a node's values (asked by ``value(node, layer)``) at the heads of each set, one copy per set."""
    writes: dict[Key, Write] = {}
    for layer in sorted({layer for one in sets for layer in one}):
        source: Tensor = value(node, layer)  # type: ignore[operator]
        flags = torch.zeros(len(sets), 1, source.shape[1], 1, dtype=torch.bool)
        for number, one in enumerate(sets):
            flags[number, 0, list(one.get(layer, ())), 0] = True
        writes[node, layer] = Write(source, flags & place[None, :, None])
    return writes
