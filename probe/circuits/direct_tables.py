"""A split of the logit difference as labelled arrays: by component, by layer, by source token."""

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.logit_split import Split
from probe.circuits.reporting import labelled
from probe.circuits.study import Study
from probe.circuits.tables import Effects
from probe.circuits.where import Where


def extra_of(case: Study, splits: Sequence[Split]) -> dict[str, xr.DataArray]:
    """Logits of the components, of every layer and of the stream, means over pairs."""

    def mean(parts: Sequence[Tensor]) -> Tensor:
        return case.joined([one.cpu() for one in parts]).mean(-1)

    def by_layer(parts: Sequence[Mapping[int, Tensor]]) -> Tensor:
        return torch.stack([mean([one[layer] for one in parts]) for layer in layers])

    layers = [block.place.layer for block in case.engine.taps.anatomy.blocks]
    bias, mlp = by_layer([one.attention_bias for one in splits]), by_layer([one.mlp for one in splits])
    heads = by_layer(
        [
            {n: one.heads[n].sum(0) if n in one.heads else torch.zeros_like(one.mlp[n]) for n in layers}
            for one in splits
        ]
    )
    once = {
        name: mean([getattr(one, name) for one in splits])
        for name in ("embedding", "norm_bias", "unembedding_bias")
    }
    components = {
        "embedding": once["embedding"], "heads": heads.sum(), "attention_bias": bias.sum(), "mlp": mlp.sum(),
        "norm_bias": once["norm_bias"], "unembedding_bias": once["unembedding_bias"],
    }  # fmt: skip
    streams = [*(f"entering {layer}" for layer in layers), f"leaving {layers[-1]}"]
    return {
        "component": labelled(torch.stack(list(components.values())), component=list(components)),
        "attention": labelled(heads + bias, layer=layers),
        "attention_bias": labelled(bias, layer=layers),
        "mlp": labelled(mlp, layer=layers),
        "layer": labelled(heads + bias + mlp, layer=layers),
        "accumulated": labelled(mean([one.accumulated for one in splits]), stream=streams),
    }


def joined(case: Study, parts: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """Values of the batches by layer, in the order of the pairs."""
    return {layer: case.joined([one[layer].cpu() for one in parts]) for layer in parts[0]}


def sources_of(case: Study, splits: Sequence[Split]) -> tuple[xr.DataArray, list[str]]:
    """Per head and token; per mark, with all else together, where pairs differ in length. And what to say of it."""
    lengths = {batch.length for batch in case.batches}
    if len(lengths) == 1:
        places = {"position": Where.of("tokens", case.pairs).labels}
        grouped = [one.sources for one in splits]
        notes = []
    else:
        labels = (*Where.of("marks", case.pairs).labels, "elsewhere")
        places = {"position": labels, "mark": labels}
        grouped = [
            {layer: _at_marks(batch, parts, labels[:-1]) for layer, parts in one.sources.items()}
            for batch, one in zip(case.batches, splits, strict=True)
        ]
        notes = ["pairs differ in length: source tokens are told apart by their marks"]
    effects = Effects("z", joined(case, grouped), places)
    return effects.extra["by_position"], notes


def _at_marks(batch: Batch, parts: Tensor, marks: Sequence[str]) -> Tensor:
    """``[head, position, pair]`` summed over the positions of each mark (the first that has it), and elsewhere."""
    left = torch.ones(len(batch), batch.length, dtype=torch.bool)
    made = []
    for mark in marks:
        here = batch.positions(mark) & left
        left &= ~here
        made.append((parts.cpu() * here.T).sum(1))
    return torch.stack([*made, (parts.cpu() * left.T).sum(1)], dim=1)
