"""Runs of the clean prompts without some heads: z is put to its mean, to zero, or to the corrupt prompt's."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.head_sets import HeadSet
from probe.circuits.measures import measure_of
from probe.circuits.nodes import Key
from probe.circuits.patching import most_copies
from probe.circuits.study import Study
from probe.circuits.taps import Write

Ablation = Literal["mean", "zero", "resample"]
Means = Mapping[int, Float[Tensor, "_ d"]]  # of z, by layer


def head_means(case: Study, numbers: Int[Tensor, " pair"]) -> Means:
    """Each head's mean z over all positions of the clean prompts of some pairs."""
    wanted = set(numbers.tolist())
    total: dict[int, Tensor] = {}
    count = 0
    for batch in case.batches:
        rows = [row for row, number in enumerate(batch.numbers) if number in wanted]
        if not rows:
            continue
        trace = case.engine.record(batch, "clean", ["z"])
        count += len(rows) * batch.length
        for layer in trace.layers("z"):
            total[layer] = total.get(layer, 0) + trace.value("z", layer)[rows].double().sum((0, 2))
    return {layer: one / count for layer, one in total.items()}


def without(
    case: Study, sets: Sequence[HeadSet], ablation: Ablation, means: Means
) -> tuple[Float[Tensor, "set pair"], Float[Tensor, "set pair"]]:
    """The measure, and whether right beats wrong, with each set of heads ablated at all positions."""
    numbers, right = [], []
    for done, batch in enumerate(case.batches):
        case.options.tell(done, len(case.batches), "ablating heads")
        sources = _sources(case, batch, ablation, means)
        found = [_run(case, batch, few, sources) for few in _parts(sets, most_copies(case, batch))]
        clean = case.logits[batch, "clean"].double()
        numbers.append(torch.cat([case.numbers(batch, logits) for logits in found]))
        right.append(torch.cat([measure_of("accuracy")(one.double(), batch, clean).cpu() for one in found]))
    case.options.tell(len(case.batches), len(case.batches), "ablating heads")
    return case.joined(numbers), case.joined(right)


def _parts(sets: Sequence[HeadSet], size: int) -> list[Sequence[HeadSet]]:
    return [sets[start : start + size] for start in range(0, len(sets), size)]


def _sources(case: Study, batch: Batch, ablation: Ablation, means: Means) -> Mapping[int, Tensor]:
    """What stands in the place of z, by layer: ``[pair, head, position, d]``."""
    if ablation == "resample":
        trace = case.engine.record(batch, "corrupt", ["z"])
        return {layer: trace.value("z", layer) for layer in trace.layers("z")}
    shape = (len(batch), -1, batch.length, -1)
    put = {layer: one * (ablation == "mean") for layer, one in means.items()}
    return {layer: one[None, :, None].expand(shape) for layer, one in put.items()}


def _run(
    case: Study, batch: Batch, sets: Sequence[HeadSet], sources: Mapping[int, Tensor]
) -> Float[Tensor, "set pair vocab"]:
    writes: dict[Key, Write] = {}
    for layer in sorted({layer for one in sets for layer, _ in one}):
        mask = torch.zeros(len(sets), 1, sources[layer].shape[1], 1, dtype=torch.bool)
        for row, one in enumerate(sets):
            mask[row, 0, [head for own, head in one if own == layer]] = True
        writes["z", layer] = Write(sources[layer], mask)
    return case.engine.patched(batch, "clean", writes, len(sets))
