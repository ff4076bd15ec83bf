"""Columns and diagonals that the last queries attend to most, kept for all queries."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import everything, largest
from probe_kernels.select.sight import Sight
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit


@dataclass(frozen=True)
class VerticalSlash:
    """See `vertical_slash`."""

    vertical: int = 128
    slash: int = 164
    last: int = 64
    first: int = 30
    local: int = 100
    block: int = 64
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, what in (
            ("vertical", "it counts columns"),
            ("slash", "it counts diagonals"),
            ("last", "it counts the queries that are looked at"),
            ("block", "it counts the queries that share a list of keys"),
        ):
            need_count("vertical_slash", name, getattr(self, name), what)
        need_count("vertical_slash", "first", self.first, "it counts columns kept in any case", least=0)
        need_count("vertical_slash", "local", self.local, "it counts diagonals kept in any case", least=0)

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        plain = VerticalSlash()
        told = {
            name: value
            for name, value in vars(self).items()
            if name in {"vertical", "slash", "last"} or value != getattr(plain, name)
        }
        return spec("vertical_slash", **told)

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The keys that each block of queries keeps: the columns, and its queries' diagonals."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            if sight.n_key <= self.block:
                return everything(sight)
            p, query_pos = last_probs(sight, self.last)
            columns = self._columns(sight, p.sum(2))
            sums, nearest = _diagonal_sums(sight, p, query_pos)
            flags = self._diagonals(sums, nearest)
            return Selection(
                visit=Visit.of_keys(_kept(sight, columns, flags, nearest, self.block), self.block)
            )

    def _columns(self, sight: Sight, mass: Tensor) -> Tensor:
        values = mass.masked_fill(mass == 0, -torch.inf)
        if self.keep_first:
            first = sight.first_keys(min(self.first, self.vertical))
            values = values.masked_fill(first[:, None], torch.inf)
        return largest(values, self.vertical)

    def _diagonals(self, sums: Tensor, nearest: int) -> Tensor:
        values = sums.masked_fill(sums == 0, -torch.inf)
        if self.keep_diagonal:
            distance = torch.arange(sums.shape[-1], device=sums.device) + nearest
            local = (distance >= 0) & (distance < min(self.local, self.slash))
            values = values.masked_fill(local, torch.inf)
        return largest(values, self.slash)


def vertical_slash(
    vertical: int = 128,
    slash: int = 164,
    last: int = 64,
    first: int = 30,
    local: int = 100,
    block: int = 64,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> VerticalSlash:
    """Keeps `vertical` columns and `slash` diagonals: those with most mass from the `last` real queries.

    With p the softmax of these queries over all keys they see: column j has Σ_i p_ij, diagonal d has Σ p_ij over
    i - j = d in logical positions. Within the budgets the `first` columns and the `local` shortest distances are kept
    in any case, unless told not to. A block of `block` queries shares one list of keys, so a diagonal is kept as a band
    that is wide enough for all of them.

    The defaults suit some thousand tokens; MInference gives 1000 columns and 6096 diagonals at 128k tokens.
    Raises `ValueError` where a count is out of range. MInference, arXiv 2407.02490.
    """
    return VerticalSlash(vertical, slash, last, first, local, block, keep_first, keep_diagonal)


def last_probs(sight: Sight, last: int) -> tuple[Tensor, Tensor]:
    """Probabilities of the last real queries of each batch row, ``[B, H, L, K]``, and their positions ``[B, L]``."""
    length = min(last, sight.n_query)
    at = torch.arange(1, sight.n_query + 1, device=sight.device)
    ends = (sight.query_real * at).amax(1)
    starts = (ends - length).clamp_min(0)
    shape = (sight.batch, sight.heads, length, sight.n_key)
    p = torch.zeros(shape, dtype=sight.inputs.dtype, device=sight.device)
    for start in sorted({int(one) for one in starts}):
        mine = starts == start
        p[mine] = sight.probs(slice(start, start + length))[mine]
    rows = starts[:, None] + torch.arange(length, device=sight.device)
    return p, sight.layout.query_pos.expand(sight.batch, -1).gather(1, rows)


def _diagonal_sums(sight: Sight, p: Tensor, query_pos: Tensor) -> tuple[Tensor, int]:
    """Σ p per distance, ``[B, H, distances]``, and the distance of the first of them."""
    live = p.sum(1) > 0  # [B, L, K]
    gap = query_pos[:, :, None] - sight.layout.key_pos.expand(sight.batch, -1)[:, None]
    nearest = int(torch.where(live, gap, gap.new_tensor(0)).amin())
    gap = torch.where(live, gap, nearest) - nearest
    sums = p.new_zeros(*p.shape[:2], int(gap.amax()) + 1)
    for row in range(p.shape[2]):
        # Within a row no two keys with mass share a distance, so the order of adding does not matter.
        sums.scatter_add_(2, gap[:, None, row].expand(-1, p.shape[1], -1), p[:, :, row])
    return sums, nearest


def _kept(sight: Sight, columns: Tensor, flags: Tensor, nearest: int, block: int) -> Tensor:
    """Bool ``[B, H, I, K]``: the columns, and every key on a kept diagonal of some query of the block."""
    seen = sight.seen(block)
    lows, highs = sight.positions(block)
    key_pos = sight.layout.key_pos.expand(sight.batch, -1)
    sums = torch.nn.functional.pad(flags.long().cumsum(-1), (1, 0))
    width = flags.shape[-1]
    kept = []
    for i in range(seen.shape[2]):
        start = (lows[:, i, None] - key_pos - nearest).clamp(0, width)
        stop = (highs[:, i, None] - key_pos - nearest + 1).clamp(0, width)
        start, stop = (one[:, None].expand(-1, sight.heads, -1) for one in (start, stop))
        band = sums.gather(2, stop) > sums.gather(2, start)
        kept.append((columns | band) & seen[:, :, i])
    return torch.stack(kept, dim=2)
