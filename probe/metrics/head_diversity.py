"""Head diversity: how differently the heads of a layer look."""

from typing import ClassVar

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import FoldMetric, MetricInfo, wanted
from probe.metrics.papers import XUE_2025
from probe.seam.call import AttentionCall


class HeadDiversity(FoldMetric):
    """Spread over a layer's heads of the probability of a (query, key) pair, in [0, 0.5]; a number per layer.

    HeadDiv = mean over visible pairs of std_h p^h_ij, the population's; with `unbiased`, the sample's (n - 1), up to
    0.71: the paper leaves open which. Under a causal mask of n tokens the pairs are the n(n+1)/2 of the lower triangle,
    as in the paper; with a window, or attention both ways, those that the mask shows. All prompts' pairs are pooled.
    Every row is used: blocks of all heads pass through the sweep, no n×n map is kept. That keeps the sweep from its
    quickest path, so ``--metric all`` leaves it out.

    Xue et al. 2025, Deconstructing Attention (arXiv:2510.11602).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> first, self_ = torch.zeros(2, 2), torch.eye(2)
    >>> first[:, 0] = 1
    >>> on_pattern(HeadDiversity(), torch.stack([first, self_])).round(4)  # stds 0, 1/2, 1/2 over three pairs
    array([0.3333])
    """

    info: ClassVar = MetricInfo(
        name="head_diversity",
        summary="Standard deviation over a layer's heads of a pair's probability, 0 to 0.5, mean over visible pairs.",
        unit="probability",
        better="high",
        paper="Xue et al. 2025",
        bibtex=XUE_2025,
        axis="layer",
        slow=True,
    )

    def __init__(self, unbiased: bool = False) -> None:
        super().__init__(unbiased=unbiased)
        self.unbiased = unbiased

    def applies(self, call: AttentionCall) -> str | None:
        """Not to layers of one head."""
        return super().applies(call) or (None if call.n_heads > 1 else "one head has nothing to differ from")

    def asks(self, call: AttentionCall) -> Want:
        """Visible keys, and the spread over heads of every row."""
        return Want(z=False, visible=True, rows={self.own: self._spread})

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add the spreads of real rows, and how many pairs they see."""
        real = call.query_real
        spread = self.finite(attended.rows[self.own][:, 0], call)
        pairs = wanted(attended.visible, "visible")
        pairs = (pairs.double().mean(1) if pairs.ndim == 3 else pairs.double()).expand(real.shape)
        for row, flags in enumerate(real.cpu()):
            cell = self.cell(call, row)
            cell["total"] = cell.get("total", torch.zeros(1, dtype=torch.float64)) + spread[row][flags].sum()
            cell["count"] = (
                cell.get("count", torch.zeros(1, dtype=torch.float64)) + pairs[row].cpu()[flags].sum()
            )

    def _spread(
        self, block: Float[Tensor, "batch head rows keys"], rows: slice, keys: slice
    ) -> Float[Tensor, "batch 1 rows"]:
        return block.std(1, correction=int(self.unbiased)).sum(-1)[:, None]
