"""All of a row's mass on the first key that it sees."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.rewriting import rewrite_scores
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId

_FAR = 2**62


@dataclass(frozen=True)
class ToBos:
    """p := 1 at the first visible key of the row and 0 elsewhere, so that z is that key's value.

    Paper: Guo et al. 2024 (arXiv:2410.13835), where the first key is token 0. On a layer with a sliding window it is
    the first key of the window: so a cached continuation equals the whole forward.
    """

    target: Target

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("to_bos", self.target)

    @property
    def settles(self) -> dict[str, str]:
        """The chosen heads' pattern."""
        return {"pattern": "the first key"}

    def control(self, seed: int) -> "ToBos":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Every key hidden but the first visible one; no mass stays on a learned sink."""
        if not self.target.applies(call):
            return Edits()

        def to_first(scores: Tensor, _rows: slice, keys: slice) -> Tensor:
            at = call.layout.key_pos[:, None, None, keys].masked_fill(scores == float("-inf"), _FAR)
            first = at == at.amin(-1, keepdim=True)
            return torch.zeros_like(scores).masked_fill(~first, float("-inf"))

        return rewrite_scores(self.target, call, to_first)


def to_bos(heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]) -> ToBos:
    """Move all of a row's mass to the first key that it sees: z becomes that key's value.

    "Move to BOS" of Guo et al. 2024 (arXiv:2410.13835); without windows the first visible key is token 0.

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span or phase that cannot be one.
    """
    return ToBos(Target.of(heads, where))
