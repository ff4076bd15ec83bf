"""Voids: layers that hardly add to a token's residual stream, found while the model runs."""

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.seam.call import Batch, Place


class Voids:
    """What the layers of one forward have added so far, per token (LAC's rule).

    With D_l = |h_l| - |h_{l-1}| (Euclidean norms of a block's output and input), layer l is a void for a token if
    D_l < alpha · (max D - min D) over the layers before l of the same forward; the first layer is compared with itself.
    Norms are of what a block computed, before anything is skipped there.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._batch: Batch | None = None
        self._seen: dict[str, list[tuple[str, Tensor]]] = {}  # tower -> (block, D [batch, token]) in order

    def find(
        self, place: Place, batch: Batch, before: Tensor, after: Tensor
    ) -> Bool[Tensor, "batch query_pos"]:
        """The tokens for which this block is a void; every block of a tower is told in turn."""
        if batch is not self._batch:
            self._batch, self._seen = batch, {}
        seen = self._seen.setdefault(place.tower, [])
        if any(name == place.module for name, _ in seen):  # a second pass of the same forward
            seen.clear()
        wide = torch.float64 if before.dtype == torch.float64 else torch.float32
        grown = after.to(wide).norm(dim=-1) - before.to(wide).norm(dim=-1)
        earlier = torch.stack([then for _, then in seen] or [grown])
        seen.append((place.module, grown))
        void: Tensor = grown < self.alpha * (earlier.amax(0) - earlier.amin(0))
        return void
