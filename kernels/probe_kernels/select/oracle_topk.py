"""What a selector could know at best: the keys of each query, or the blocks of each block, with the most mass."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.dispatch import attend
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import (
    chosen,
    everything,
    forced_blocks,
    indices_of_largest,
    softmax_of_visible,
)
from probe_kernels.select.sight import Sight, into_blocks
from probe_kernels.select.telling import need_count, need_one_budget, spec
from probe_kernels.types import Layout, Scores, Want
from probe_kernels.visit import Visit


@dataclass(frozen=True)
class OracleTopK:
    """See `oracle_topk`."""

    k: int | None = 64
    tau: float | None = None
    block: int = 1
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_one_budget("oracle_topk", self.k, self.tau)
        need_count("oracle_topk", "block", self.block, "it counts the tokens of a block, 1 for single keys")
        if self.k is None and self.block == 1:
            raise ValueError(
                f"oracle_topk was asked with tau={self.tau} and block=1; a query could need a list of all keys: "
                "give k, or a block of at least 2"
            )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("oracle_topk", **vars(self))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The keys of each query, or of each block of queries."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            if sight.n_key <= self.block:
                return everything(sight)
            visit = self._keys(sight) if self.block == 1 else self._blocks(sight)
            return Selection(visit=visit)

    def _blocks(self, sight: Sight) -> Visit:
        share = block_share(sight, self.block)
        forced = forced_blocks(
            sight, self.block, self.block, first=self.keep_first, diagonal=self.keep_diagonal
        )
        among = into_blocks(sight.seen(self.block), self.block, False).any(-1)
        kept = chosen(share, among, forced, self.k, self.tau)
        return Visit.of_blocks(kept, self.block, self.block, sight.n_key)

    def _keys(self, sight: Sight) -> Visit:
        k = min(self.k or 1, sight.n_key)
        first = sight.first_keys(1)[:, None, None]
        parts = []
        for rows in sight.strips():
            keys = sight.ground.chunk(rows).keys
            s = sight.strip(rows, keys)
            values = s.masked_fill(~sight.query_real[:, None, rows, None], -torch.inf)
            seen = values > -torch.inf
            if self.keep_first:
                values = values.masked_fill(first[..., keys] & seen, torch.inf)
            if self.keep_diagonal:
                values = values.masked_fill(_own(sight, rows, keys) & seen, torch.inf)
            index = indices_of_largest(values, k)
            index = torch.where(index < 0, -1, index + keys.start)
            parts.append(torch.nn.functional.pad(index, (0, k - index.shape[-1]), value=-1))
        return Visit(1, torch.cat(parts, dim=2))


def oracle_topk(
    k: int | None = None,
    tau: float | None = None,
    block: int | None = None,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> OracleTopK:
    """Each query keeps its `k` keys with the highest scores; with `block`, blocks keep blocks by their exact mass.

    With ``block=1`` (the default with k, which is 64 if nothing is given) it is the most mass that k keys per query can
    hold. With a larger block (64 by default with tau), each block of queries keeps `k` blocks of keys, or the fewest
    that hold `tau`, by the mean over its real rows of each block's share of the keys' mass, from the block-LSE table.
    The first key or block and the diagonal are counted in k, and come on top of tau. It reads the exact scores, so it
    saves nothing: it is the bound that others are held to.

    Raises `ValueError` where both budgets are given, or one is out of range, or tau with single keys.
    """
    if k is None and tau is None:
        k = 64
    return OracleTopK(k, tau, (64 if k is None else 1) if block is None else block, keep_first, keep_diagonal)


def block_share(sight: Sight, block: int) -> Tensor:
    """Mean over real rows of each block of keys' share of the mass, ``[B, H, I, J]``, from the block-LSE table."""
    table = attend(sight.scores, sight.layout, Want(z=False, lse=True, table=block)).table
    if table is None:
        raise ValueError(f"a table of blocks of {block} was wanted and none came back")
    parts = []
    for rows in sight.ground.runs(block):
        real = sight.query_real[:, None, rows, None]
        p = softmax_of_visible(table[..., rows].transpose(2, 3).double()).masked_fill(~real, 0.0)
        live = (p.sum(-1) > 0).sum(-1).clamp_min(1)
        parts.append(p.sum(2) / live[..., None])
    return torch.stack(parts, dim=2)


def _own(sight: Sight, rows: slice, keys: slice) -> Tensor:
    """Bool ``[b, 1, rows, keys]``: the key of each query's own token."""
    layout, shift = sight.layout, sight.n_key - sight.n_query
    if shift >= 0 and bool((layout.query_pos == layout.key_pos[:, shift:]).all()):
        at = torch.arange(rows.start, rows.stop, device=sight.device) + shift
        return (at[:, None] == torch.arange(keys.start, keys.stop, device=sight.device))[None, None]
    return (layout.query_pos[:, rows, None] == layout.key_pos[:, None, keys])[:, None]
