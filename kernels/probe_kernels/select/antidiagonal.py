"""Blocks by their strided antidiagonals: a sample that meets every column and every diagonal of a block."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.chunks import HIDDEN
from probe_kernels.mask import Tile
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import chosen, everything, forced_blocks, softmax_of_visible
from probe_kernels.select.sight import Sight, into_blocks
from probe_kernels.select.telling import need_count, need_share, spec
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit

_NUMBERS = 2**21  # sampled scores at a time, over batch and heads


@dataclass(frozen=True)
class Antidiagonal:
    """See `antidiagonal`."""

    block: int = 64
    stride: int = 16
    tau: float = 0.9
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_count("antidiagonal", "block", self.block, "it counts the tokens of a block")
        need_count("antidiagonal", "stride", self.stride, "it counts the tokens between two antidiagonals")
        need_share("antidiagonal", self.tau)
        if self.block % self.stride:
            raise ValueError(
                f"antidiagonal was asked with block={self.block} and stride={self.stride}; "
                "a block holds whole strides: give a stride that divides the block"
            )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("antidiagonal", **vars(self))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The blocks of keys that each block of queries keeps."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            if sight.n_key <= self.block:
                return everything(sight)
            share = antidiagonal_share(sight, self.block, self.stride)
            among = into_blocks(sight.seen(self.block), self.block, False).any(-1)
            forced = forced_blocks(
                sight, self.block, self.block, first=self.keep_first, diagonal=self.keep_diagonal
            )
            kept = chosen(share, among, forced, None, self.tau)
            return Selection(visit=Visit.of_blocks(kept, self.block, self.block, sight.n_key))


def antidiagonal(
    block: int = 64,
    stride: int = 16,
    tau: float = 0.9,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> Antidiagonal:
    """Each block of queries keeps the fewest blocks of keys that hold `tau` of the mass on sampled antidiagonals.

    Queries and keys are cut into groups of `stride` tokens. Group a scores group c by the mean over t of
    s(query a·stride + stride-1-t, key c·stride + t), over the pairs that are visible; then softmax over c, and the sum
    over the groups of a block. The first and the diagonal block come on top. A block with fewer queries than `stride`,
    as in decoding, has shorter groups; with one query the estimate is exact. The pairs of an even stride are an odd
    number of tokens apart, so a diagonal at an even distance that is one token wide is not met.

    Raises `ValueError` where a number is out of range or `stride` does not divide `block`.
    XAttention, arXiv 2503.16428.
    """
    return Antidiagonal(block, stride, tau, keep_first, keep_diagonal)


def antidiagonal_share(sight: Sight, block: int, stride: int) -> Tensor:
    """Share of each block of keys in the sampled mass of a block of queries, ``[B, H, I, J]``; sums to 1 or 0."""
    whole = sight.n_query // block * block
    shares = []
    fit = _NUMBERS * stride**2 // (sight.batch * sight.heads * sight.n_key)
    step = max(1, fit // block) * block
    cuts = [slice(start, min(start + step, whole)) for start in range(0, whole, step)]
    if whole < sight.n_query:
        cuts.append(slice(whole, sight.n_query))
    for rows in cuts:
        group = _divisor(block, min(stride, rows.stop - rows.start))
        p = softmax_of_visible(_group_scores(sight, rows, group))
        by_key = into_blocks(p, block // group, 0.0).sum(-1).transpose(2, 3)
        mass = into_blocks(by_key, block // group, 0.0).sum(-1).transpose(2, 3)
        shares.append(mass / mass.sum(-1, keepdim=True).clamp_min(1e-30))
    return torch.cat(shares, dim=2)


def _divisor(block: int, most: int) -> int:
    return next(one for one in range(most, 0, -1) if block % one == 0)


def _group_scores(sight: Sight, rows: slice, group: int) -> Tensor:
    """Mean score on the antidiagonals of groups of queries and keys, ``[B, H, a, c]``; -inf where none is visible."""
    a, c = -(-(rows.stop - rows.start) // group), -(-sight.n_key // group)
    total = torch.zeros(sight.batch, sight.heads, a, c, dtype=sight.inputs.dtype, device=sight.device)
    count = torch.zeros(sight.batch, sight.heads, a, c, dtype=torch.int64, device=sight.device)
    for t in range(min(group, sight.n_key)):
        first = rows.start + group - 1 - t
        if first >= rows.stop:
            continue
        s = _strided(sight, slice(first, rows.stop, group), slice(t, sight.n_key, group))
        shown = s > HIDDEN
        at = (slice(None), slice(None), slice(0, s.shape[2]), slice(0, s.shape[3]))
        total[at] += s.masked_fill(~shown, 0.0)
        count[at] += shown
    return (total / count.clamp_min(1)).masked_fill(count == 0, -torch.inf)


def _strided(sight: Sight, rows: slice, keys: slice) -> Tensor:
    """Exact scores of every so many queries and keys, HIDDEN where hidden."""
    one, layout = sight.scores, sight.layout
    q = one.query[:, :, rows].to(sight.inputs.dtype)
    s = sight.mean_scores(q, sight.inputs.key[:, :, keys])
    if one.bias is not None:
        s = s + one.bias.expand(*one.query.shape[:3], sight.n_key)[:, :, rows, keys].to(s.dtype)
    if one.alibi is not None:
        gap = layout.query_pos[:, None, rows, None] - layout.key_pos[:, None, None, keys]
        s = s - one.alibi.to(s.dtype)[None, :, None, None] * gap
    seen = sight.query_real[:, rows, None] & sight.key_real[:, None, keys]
    tile = layout.mask.visible(
        Tile(
            layout.query_pos[:, rows, None],
            layout.key_pos[:, None, keys],
            None if layout.query_segment is None else layout.query_segment[:, rows, None],
            None if layout.key_segment is None else layout.key_segment[:, None, keys],
            rows,
            keys,
        )
    )
    if tile is not None:
        seen = seen & tile
    return s.clamp_min(HIDDEN).masked_fill(~seen[:, None], HIDDEN)
