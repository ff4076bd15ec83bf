"""Copying: whether what a head would write when it looks at a token is that token (Wang et al. 2023, §3.1).

Every layer is given the stream as it leaves the first block (the token, nearly alone), and each head looks at one
position only; its output goes through the final norm and the output embedding.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.lens import Lens
from probe.circuits.looks import ByLayer
from probe.circuits.nodes import Key
from probe.circuits.study import Study
from probe.circuits.taps import Write

NEAREST = 5  # tokens among which the one that was looked at must be


def copying(case: Study, batch: Batch, mark: str, layers: Collection[int]) -> tuple[ByLayer, ByLayer]:
    """1 where the marked token is among the 5 that a head raises most, else 0; and the same of those it lowers most.

    Raises:
        CaptureError: what each head adds cannot be told in this model.
    """
    engine = case.engine
    first = engine.taps.anatomy.blocks[0].place.layer
    plain = engine.record(batch, "clean", ["resid_post", "pattern"])
    early, places = plain.value("resid_post", first), batch.at(mark)
    every = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    writes: dict[Key, Write] = {}
    for layer in sorted(layers):
        if layer != first:
            writes["resid_pre", layer] = Write(early, every)
        writes["pattern", layer] = Write(_looking(plain.value("pattern", layer), places), every)
    trace = engine.record(batch, "clean", ["z"], writes)
    lens = Lens.of(trace.anatomy, early[:, 0, -1])
    tokens = batch.ids("clean", early.device)[torch.arange(len(batch)), places]
    raised, lowered = {}, {}
    for layer in sorted(layers):
        heads, _ = trace.head_writes(layer)
        logits = lens.logits(heads[:, :, -1])
        own = logits.gather(-1, tokens[:, None, None].expand(-1, logits.shape[1], 1))
        raised[layer] = ((logits >= own).sum(-1) <= NEAREST).double().cpu().T
        lowered[layer] = ((logits <= own).sum(-1) <= NEAREST).double().cpu().T
    return raised, lowered


def _looking(pattern: Tensor, places: Tensor) -> Tensor:
    """Patterns like these whose last row looks at one position alone."""
    made = pattern.clone()
    made[:, :, -1] = 0
    made[torch.arange(len(places)), :, -1, places] = 1
    return made
