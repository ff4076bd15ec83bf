"""Blocks by the product of their means: mean query times mean key, softmax, and as many blocks as hold tau."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import chosen, everything, forced_blocks, softmax_of_visible
from probe_kernels.select.sight import Sight, into_blocks
from probe_kernels.select.telling import need_count, need_one_budget, spec
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit


@dataclass(frozen=True)
class PooledTopK:
    """See `pooled_topk`."""

    block: int = 64
    tau: float | None = None
    k: int | None = None
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_count("pooled_topk", "block", self.block, "it counts the tokens of a block")
        need_one_budget("pooled_topk", self.k, self.tau)

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("pooled_topk", **vars(self))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The blocks of keys that each block of queries keeps."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            if sight.n_key <= self.block:
                return everything(sight)
            pooled = pooled_scores(sight, self.block)
            forced = forced_blocks(
                sight, self.block, self.block, first=self.keep_first, diagonal=self.keep_diagonal
            )
            kept = chosen(softmax_of_visible(pooled), pooled > -torch.inf, forced, self.k, self.tau)
            return Selection(visit=Visit.of_blocks(kept, self.block, self.block, sight.n_key))


def pooled_topk(
    block: int = 64,
    tau: float | None = None,
    k: int | None = None,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> PooledTopK:
    """Each block of queries keeps the `k` blocks of keys, or the fewest that hold `tau` (default 0.9) of the mass.

    The estimate is softmax over J of softcap(scale · mean(q in I) · mean(k in J)) + mean bias, over blocks J of which
    some query of I sees a key; means are over real tokens. The first and the diagonal block are kept besides what tau
    asks, and among the k. A mean hides a single strong key, so a sink would be lost without the first block.

    Raises `ValueError` where both budgets are given, or one is out of range. Block means as in MInference
    (arXiv 2407.02490), cumulative threshold as in XAttention (arXiv 2503.16428).
    """
    return PooledTopK(block, 0.9 if tau is None and k is None else tau, k, keep_first, keep_diagonal)


def pooled_scores(sight: Sight, block: int) -> Tensor:
    """Scores of block means, ``[B, H, I, J]``; -inf where no query of I sees a key of J."""
    seen = sight.seen(block)
    count = into_blocks(sight.key_real, block, False).sum(-1).clamp_min(1)
    total = into_blocks(sight.real_key().transpose(2, 3), block, 0.0).sum(-1).transpose(2, 3)
    s = sight.mean_scores(sight.mean_query(block), total / count[:, None, :, None])
    s = s.masked_fill(~into_blocks(seen, block, False).any(-1), -torch.inf)
    for i, rows in enumerate(sight.ground.runs(block)):
        lean = sight.lean(rows)
        if lean is None:
            break
        s[:, :, i] += mean_lean(
            into_blocks(lean, block, -torch.inf), into_blocks(seen[:, :, i], block, False)
        )
    return s


def mean_lean(lean: Tensor, seen: Tensor) -> Tensor:
    """Mean over the last axis where seen and not hidden, -inf where nothing is."""
    counts = seen & (lean > -torch.inf)
    n = counts.sum(-1)
    return (lean.masked_fill(~counts, 0.0).sum(-1) / n.clamp_min(1)).masked_fill(n == 0, -torch.inf)
