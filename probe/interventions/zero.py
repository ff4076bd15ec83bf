"""Zero ablation: a head writes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from probe_kernels.types import Attended

from probe.interventions.editing import edit_z
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Zero:
    """z := 0 at the chosen heads and rows; their pattern and its statistics stay as they are."""

    target: Target

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("zero", self.target)

    @property
    def settles(self) -> dict[str, str]:
        """The chosen heads' z."""
        return {"z": "zero"}

    def control(self, seed: int) -> "Zero":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z zeroed at the chosen heads and rows."""
        return edit_z(self.target, call, attended, torch.zeros_like)


def zero(heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]) -> Zero:
    """Set a head's output z to zero (zero ablation; Michel, Levy & Neubig 2019, arXiv:1905.10650).

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span or phase that cannot be one.
    """
    return Zero(Target.of(heads, where))
