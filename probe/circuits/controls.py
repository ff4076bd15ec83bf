"""What chance would give: as many random heads in the same layers, and the overlap of two random sets."""

from collections.abc import Callable, Mapping, Sequence
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.nodes import Key, Node, Side
from probe.circuits.patching import most_copies, recovery
from probe.circuits.study import Study
from probe.circuits.taps import Write

Chosen = Mapping[int, tuple[int, ...]]  # heads by layer
Units = Mapping[Key, tuple[int, ...]]  # units by node and layer


def drawn(
    chosen: Chosen, pools: Mapping[int, Sequence[int]], generator: np.random.Generator
) -> dict[int, tuple[int, ...]]:
    """As many random heads of each layer's pool as are chosen there; the whole pool where it has fewer."""
    made = {}
    for layer, heads in chosen.items():
        pool = pools.get(layer, ())
        found = generator.choice(pool, min(len(heads), len(pool)), replace=False)
        made[layer] = tuple(sorted(int(head) for head in found))
    return made


def matched(
    chosen: Chosen, counts: Mapping[int, int], generator: np.random.Generator
) -> dict[int, tuple[int, ...]]:
    """As many random heads in each layer, others than those chosen where there are enough of them."""
    pools = {}
    for layer, heads in chosen.items():
        others = [head for head in range(counts[layer]) if head not in heads]
        pools[layer] = others if len(others) >= len(heads) else list(range(counts[layer]))
    return drawn(chosen, pools, generator)


def any_matched(
    chosen: Chosen, counts: Mapping[int, int], generator: np.random.Generator
) -> dict[int, tuple[int, ...]]:
    """As many random heads in each layer, whichever they are."""
    return drawn(chosen, {layer: range(counts[layer]) for layer in chosen}, generator)


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


def nodes(chosen: Chosen, node: Node = "z") -> Units:
    """Heads as units of a node."""
    return {(node, layer): heads for layer, heads in chosen.items()}


def together(
    case: Study, sets: Sequence[Units], into: Side = "clean", at: str | None = None
) -> Float[Tensor, "set pair"]:
    """The share of the difference that appears when each set's values of the other run are put into one.

    Args:
        case: Studied pairs.
        sets: Units of nodes that are patched together.
        into: The run that values are put into.
        at: A mark; None = all positions at once.
    """
    parts = []
    for batch in case.batches:
        step = most_copies(case, batch)
        few = [sets[start : start + step] for start in range(0, len(sets), step)]
        parts.append(torch.cat([_patched(case, batch, some, (into, at)) for some in few]))
    return recovery(case, case.joined(parts), into)


def _patched(case: Study, batch: Batch, sets: Sequence[Units], where: tuple[Side, str | None]) -> Tensor:
    into, at = where
    if not any(sets):
        return case.numbers(batch, case.logits[batch, into].expand(len(sets), -1, -1))
    other: Side = "corrupt" if into == "clean" else "clean"
    trace = case.engine.record(batch, other, {node for one in sets for node, _ in one})
    place = torch.ones(1, batch.length, dtype=torch.bool) if at is None else batch.positions(at)
    writes = masked_writes(trace.value, sets, place)
    return case.numbers(batch, case.engine.patched(batch, into, writes, len(sets)))


def masked_writes(
    value: Callable[[Node, int], Tensor], sets: Sequence[Units], place: Bool[Tensor, "pair_or_1 position"]
) -> dict[Key, Write]:
    """Writes of values at the units of each set and the positions of `place`, one copy per set."""
    writes: dict[Key, Write] = {}
    for key in sorted({key for one in sets for key in one}):
        source = value(*key)
        flags = torch.zeros(len(sets), 1, source.shape[1], 1, dtype=torch.bool)
        for number, one in enumerate(sets):
            flags[number, 0, list(one.get(key, ())), 0] = True
        writes[key] = Write(source, flags & place[None, :, None])
    return writes
