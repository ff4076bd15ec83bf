"""Cascade importance: what tokens have received so far, over heads and layers."""

from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import UsageError
from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.papers import WANG_2021
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall, Batch


class CascadeImportance(TokenMetric):
    """Share of all attention so far that the most important tokens hold, in [0, 1]; a number per layer.

    Token map: the column mass of a token summed over the heads of this layer and of all layers before it; with
    `fair`, divided by the queries that can see the token, summed over the same layers, for early tokens are seen by
    more. Value of a layer: the part of the map's sum that the `keep` share of tokens with most of it holds, mean over
    prompts: what pruning down to them by this layer would keep.

    Wang et al. 2021, SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning
    (arXiv:2012.09852), without its pruning: nothing is taken from the model. Heads are ranked by `head_importance`.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> to_first = torch.zeros(1, 4, 4)
    >>> to_first[:, :, 0] = 1
    >>> on_pattern(CascadeImportance(keep=0.25), to_first)  # one token of four holds all
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="cascade_importance",
        summary="Share of attention over heads and layers so far that the `keep` share of tokens holds, in [0, 1].",
        unit="share",
        better="high",
        paper="Wang et al. 2021",
        bibtex=WANG_2021,
        per_token=True,
        axis="layer",
    )
    need: ClassVar = Want(z=False, column=True)

    def __init__(self, keep: float = 0.5, fair: bool = False) -> None:
        super().__init__(keep=keep, fair=fair)
        if not 0.0 < keep <= 1.0:
            raise UsageError(f"cascade_importance: keep was {keep}; allowed is more than 0, at most 1")
        self.keep, self.fair = keep, fair
        self._batch: Batch | None = None
        self._before: dict[str, TokenSums] = {}  # per tower: what the layers of this forward gave so far

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Column mass of this layer and of those before it in the same forward, over all heads."""
        if call.batch is not self._batch:
            self._batch, self._before = call.batch, {}
        column, index = wanted(attended.column, "column"), call.key_index
        seen_by = wanted(attended.seen_by, "column").double()
        seen_by = (seen_by.mean(1) if seen_by.ndim == 3 else seen_by).expand(index.shape)
        sums = TokenSums(column.double().sum(1, keepdim=True), seen_by, index)
        before = self._before.get(call.place.tower)
        sums = sums if before is None else _joined(sums, before)
        self._before[call.place.tower] = sums
        return sums

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add this call's share; masses are added over calls, unless they are to be fair."""
        super().take(call, attended)
        for row in range(0 if self.fair else len(call.batch.prompts)):
            self.cell(call, row)["token_weight"].clamp_max_(1.0)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The share that the `keep` share of tokens holds, with weight 1 where there is any mass."""
        values = self.token(cell)[0].nan_to_num(0.0)
        count = max(1, round(self.keep * len(values)))
        total = values.sum()
        kept = values.sort(descending=True).values[:count].sum()
        has = (total > 0).to(torch.float64)
        return (kept / total.clamp_min(1e-300) * has)[None], has[None]


def _joined(sums: TokenSums, before: TokenSums) -> TokenSums:
    """Both layers' masses by token: sliding layers hold fewer keys than full ones."""
    length = 1 + int(torch.maximum(sums.index.max(), before.index.max()).clamp_min(0))
    batch, device = sums.total.shape[0], sums.total.device
    total = sums.total.new_zeros(batch, 1, length + 1)  # the last column takes what is padding
    weight = total.new_zeros(batch, length + 1)
    for one in (sums, before):
        at = torch.where(one.index >= 0, one.index, length).to(device)
        total.scatter_add_(2, at[:, None], one.total.to(device))
        weight.scatter_add_(1, at, one.weight.to(device))
    weight = weight[:, :length]
    index = torch.arange(length, device=device).expand(batch, -1)
    return TokenSums(total[..., :length], weight, torch.where(weight > 0, index, -1))
