"""Blocks drawn by lot: the control that every pattern which looks at scores is held against, at equal density."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import forced_blocks
from probe_kernels.select.sight import Sight, into_blocks
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit


@dataclass(frozen=True)
class RandomBlocks:
    """See `random_blocks`."""

    density: float
    block: int = 64
    seed: int = 0
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        need_count("random_blocks", "block", self.block, "it counts the tokens of a block")
        need_count("random_blocks", "seed", self.seed, "it starts the draw", least=0)
        if not 0 < self.density <= 1:
            raise ValueError(
                f"random_blocks was asked with density={self.density}; give a share of the visible pairs above 0 and "
                "up to 1"
            )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        told = {**vars(self), "density": repr(float(self.density)), "seed": self.seed or None}
        return spec("random_blocks", **told)

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """Each head's own draw, another in each layer."""
        sight = Sight(scores, layout)
        pairs = _pairs(sight, self.block)
        forced = forced_blocks(
            sight, self.block, self.block, first=self.keep_first, diagonal=self.keep_diagonal
        )
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + site.layer)
        lots = torch.rand(1, sight.heads, *pairs.shape[1:], generator=random).to(sight.device)
        lots = (
            lots.expand(sight.batch, -1, -1, -1)
            .masked_fill(forced, 2.0)
            .masked_fill((pairs == 0)[:, None], -1.0)
        )
        kept = torch.zeros_like(lots, dtype=torch.bool)
        spare = torch.zeros(sight.batch, sight.heads, dtype=torch.float64, device=sight.device)
        for i in range(pairs.shape[1]):
            here = pairs[:, i].double()
            chosen = _drawn(
                lots[:, :, i], here, spare + self.density * here.sum(-1, keepdim=True), forced[:, :, i]
            )
            kept[:, :, i] = chosen
            spare += self.density * here.sum(-1, keepdim=True) - (chosen * here[:, None]).sum(-1)
        return Selection(visit=Visit.of_blocks(kept, self.block, self.block, sight.n_key))


def random_blocks(
    density: float, block: int = 64, seed: int = 0, keep_first: bool = True, keep_diagonal: bool = True
) -> RandomBlocks:
    """Each block of queries keeps blocks of keys drawn by lot, so many that `density` of the visible pairs is kept.

    Pairs are counted, not blocks, and what one block of queries keeps too many of (the first and the diagonal block are
    kept in any case), later ones keep fewer: each head's density is the asked one to half a block, unless what is kept
    in any case is more. Blocks of which no query sees a key are never drawn. Blocks are cut in storage order.

    Raises `ValueError` where density is not above 0 and up to 1.
    """
    return RandomBlocks(density, block, seed, keep_first, keep_diagonal)


def _pairs(sight: Sight, block: int) -> Tensor:
    """Visible pairs of real queries and keys of each pair of blocks, int64 ``[B, I, J]``."""
    found = []
    for rows in sight.ground.runs(block):
        chunk, real = sight.ground.chunk(rows), sight.query_real[:, rows]
        count = torch.zeros(sight.batch, sight.n_key, dtype=torch.int64, device=sight.device)
        count[:, chunk.keys] = real.sum(1, keepdim=True)
        for edge in chunk.edges:
            count[:, edge.keys] -= (edge.hidden & real[..., None]).sum(1)
        found.append(into_blocks(count, block, 0).sum(-1))
    return torch.stack(found, dim=1)


def _drawn(lots: Tensor, pairs: Tensor, target: Tensor, forced: Tensor) -> Tensor:
    """The blocks with the highest lots whose pairs together come nearest to the target, ``[B, H, J]``."""
    order = lots.argsort(dim=-1, descending=True, stable=True)
    pairs = pairs[:, None].expand_as(lots)
    held = pairs.gather(-1, order).cumsum(-1)
    before = held - pairs.gather(-1, order)
    wanted = (held + before) / 2 <= target[..., None]
    kept = torch.zeros_like(wanted).scatter(-1, order, wanted)
    return (kept | forced) & (pairs > 0)
