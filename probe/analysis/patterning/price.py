"""What a selection of keys costs one call, from (output, lse) pairs of both attentions: no map of it is made."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from probe_kernels import attend
from probe_kernels.select import Selection
from torch import Tensor

from probe.analysis.patterning.whole import NEED, Whole
from probe.metrics.base import wanted


@dataclass(frozen=True)
class Price:
    """Per row and head; rows that are padding hold numbers that mean nothing.

    With S the keys that the selection keeps and C the other visible ones:

    - `mass`: R = Σ_{j in S} p_j / Σ_j p_j = exp(lse_S - lse), both over keys alone, 0 to 1; a row that keeps nothing
      has 0. The mass of a learned sink is no key's, so it is in neither sum.
    - `error2`: ‖O - O_S‖² of the row, the sink's share included; without a sink O - O_S = (1 - R)(O_C - O_S).
    - `norm2`: ‖O‖² of the row.
    - `kept`, `visible`: how many keys the row keeps and sees.
    """

    mass: Float[Tensor, "batch head query_pos"]
    error2: Float[Tensor, "batch head query_pos"]
    norm2: Float[Tensor, "batch head query_pos"]
    kept: Float[Tensor, "batch head query_pos"]
    visible: Float[Tensor, "batch head query_pos"]

    @property
    def density(self) -> Float[Tensor, "batch head"]:
        """Σ kept / Σ visible over all rows."""
        return self.kept.sum(-1) / self.visible.sum(-1).clamp_min(1)


def price(whole: Whole, selection: Selection, kernels: str | None = None) -> Price:
    """What each row of a call loses when it keeps the keys of a selection alone."""
    real = whole.real[:, None]
    if selection.mask is None and selection.visit is None:
        z, lse, seen = None, whole.lse, whole.visible
    else:
        layout = selection.narrowed(whole.layout)
        part = attend(whole.bare, layout, NEED, visit=selection.visit, backend=kernels)
        z, lse, seen = part.z, wanted(part.lse, "lse"), wanted(part.visible, "visible")
    mass = torch.exp(lse - whole.lse).clamp_max(1.0).masked_fill(lse == -torch.inf, 0.0)
    whole_z = whole.z.double()
    lost = torch.zeros_like(whole_z)
    if z is not None:
        lost = whole_z - z.double() * whole.among(lse)[..., None].double()
    seen = seen[:, None] if seen.ndim == 2 else seen
    return Price(
        mass.masked_fill(~real, 0.0),
        lost.square().sum(-1).masked_fill(~real, 0.0),
        whole_z.square().sum(-1).masked_fill(~real, 0.0),
        seen.double().expand_as(mass).masked_fill(~real, 0.0),
        whole.visible.double().expand_as(mass).masked_fill(~real, 0.0),
    )
