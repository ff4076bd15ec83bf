"""Blocks of sorted keys: inside segments, those that matter to the last queries are put together."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import chosen, everything, softmax_of_visible
from probe_kernels.select.pooled_topk import mean_lean
from probe_kernels.select.sight import Sight, into_blocks
from probe_kernels.select.telling import need_count, need_share, spec
from probe_kernels.select.vertical_slash import last_probs
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit


@dataclass(frozen=True)
class PermutedBlock:
    """See `permuted_block`."""

    block: int = 128
    segment: int = 256
    tau: float = 0.9
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_count("permuted_block", "block", self.block, "it counts the tokens of a block")
        need_count("permuted_block", "segment", self.segment, "it counts the tokens that are sorted together")
        need_share("permuted_block", self.tau)
        if self.segment % self.block:
            raise ValueError(
                f"permuted_block was asked with segment={self.segment} and block={self.block}; "
                "a segment is cut into whole blocks: give a segment that is a multiple of the block"
            )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("permuted_block", **vars(self))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The keys that each block of queries keeps, and the order that the keys were put in."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            if sight.n_key <= self.segment:
                return everything(sight)
            order = self._order(sight)
            seen = sight.seen(self.block)
            own = into_blocks(sight.own_keys(self.block), self.segment, False).any(-1)
            key = _block_means(sight, order, self.block)
            query = sight.mean_query(self.block)
            kept = []
            for i, rows in enumerate(sight.ground.runs(self.block)):
                visible = self._blocks(seen[:, :, i].expand(-1, sight.heads, -1).gather(2, order))
                pooled = sight.mean_scores(query[:, :, i, None], key)[:, :, 0]
                pooled = pooled.masked_fill(~visible.any(-1), -torch.inf)
                lean = sight.lean(rows)
                if lean is not None:
                    pooled = pooled + mean_lean(self._blocks(lean.gather(2, order), -torch.inf), visible)
                forced = self._forced(sight, order, own[:, i])
                blocks = chosen(softmax_of_visible(pooled), pooled > -torch.inf, forced, None, self.tau)
                keys = blocks.repeat_interleave(self.block, dim=-1)[..., : sight.n_key]
                kept.append(torch.zeros_like(keys).scatter(2, order, keys) & seen[:, :, i])
            return Selection(visit=Visit.of_keys(torch.stack(kept, dim=2), self.block), order=order)

    def _blocks(self, values: Tensor, fill: float = False) -> Tensor:
        return into_blocks(values, self.block, fill)

    def _order(self, sight: Sight) -> Tensor:
        """Storage indices by falling weight inside each segment, equals as they were, int64 ``[B, H, K]``."""
        p, _ = last_probs(sight, self.block)
        # Summed in float64 and compared in float32: equal weights stay equal however the sum was grouped.
        weight = p.double().mean(2).float().masked_fill(~sight.key_real[:, None], -1.0)
        sorted_ = into_blocks(weight, self.segment, -2.0).sort(dim=-1, descending=True, stable=True).indices
        start = torch.arange(sorted_.shape[2], device=sight.device)[:, None] * self.segment
        return (sorted_ + start).flatten(2)[..., : sight.n_key]

    def _forced(self, sight: Sight, order: Tensor, own: Tensor) -> Tensor:
        """The blocks of the own segments, and those that now hold the first real key; ``[B, H, J]``."""
        forced = torch.zeros(1, 1, -(-sight.n_key // self.block), dtype=torch.bool, device=sight.device)
        if self.keep_diagonal:
            per_segment = self.segment // self.block
            forced = forced | own.repeat_interleave(per_segment, dim=-1)[:, None, : forced.shape[-1]]
        if self.keep_first:
            first = sight.first_keys(1)[:, None].expand(-1, sight.heads, -1).gather(2, order)
            forced = forced | self._blocks(first).any(-1)
        return forced


def permuted_block(
    block: int = 128,
    segment: int = 256,
    tau: float = 0.9,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> PermutedBlock:
    """Pooled blocks of keys that were sorted inside segments, so that keys that matter share blocks.

    In each segment of `segment` keys, keys are sorted by their mean attention from the last `block` real queries. Then
    blocks are chosen as in `pooled_topk`: softmax over blocks of softcap(scale · mean(q) · mean(k)) + mean bias, the
    fewest that hold `tau`. The query block's own segment, and the block that now holds the first key, come on top.
    Only keys move, and only inside segments; the call's mask, by logical positions, holds for each token. The answer's
    `order` is the permutation. Calls with at most `segment` keys keep everything.

    Raises `ValueError` where a number is out of range or `block` does not divide `segment`.
    PBS-Attn, arXiv 2510.21270.
    """
    return PermutedBlock(block, segment, tau, keep_first, keep_diagonal)


def _block_means(sight: Sight, order: Tensor, block: int) -> Tensor:
    """Mean of the real keys of each block after the permutation, ``[B, H, J, D]``."""
    group = sight.inputs.group
    real = into_blocks(sight.key_real[:, None].expand(-1, sight.heads, -1).gather(2, order), block, False)
    key = sight.real_key()
    means = []
    for head in range(sight.heads):
        at = order[:, head, :, None].expand(-1, -1, sight.width)
        moved = key[:, head // group].gather(1, at).transpose(1, 2)
        total = into_blocks(moved, block, 0.0).sum(-1).transpose(1, 2)
        means.append(total / real[:, head].sum(-1).clamp_min(1)[..., None])
    return torch.stack(means, dim=1)
