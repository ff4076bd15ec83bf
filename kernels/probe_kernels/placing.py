"""Puts the answers of dense calls over gathered keys where they belong in the answer of the whole call."""

from copy import copy

import torch
from torch import Tensor

from probe_kernels.gathered import Unit, split
from probe_kernels.ledger import Ledger
from probe_kernels.types import Attended, Want
from probe_kernels.visit import Visit

_ROWS = ("z", "lse", "sink_mass", "entropy", "square", "top_p", "distance")
_ROWS_BY_NAME = ("first", "offsets", "matches", "key_groups", "parts")


class Places:
    """The answer of a call under construction; heads are counted as `of` lists of as many heads each."""

    def __init__(self, ledger: Ledger, of: int, visit: Visit) -> None:
        self.ledger = ledger
        self.want: Want = ledger.want
        self.of = of
        self.by_head = visit.index.shape[1] > 1
        out, value = ledger.out, ledger.scores.value
        if self.want.z and value is not None:
            out.z = value.new_zeros(*ledger.scores.query.shape[:3], value.shape[3])
        if out.visible is not None:
            out.visible = out.visible.new_zeros(out.visible.shape[0], of, out.visible.shape[1])
        self._count_by_list()

    def _count_by_list(self) -> None:
        out = self.ledger.out
        if out.seen_by is not None:
            out.seen_by = self._per_list(out.seen_by)
        out.band_seen_by = {band: self._per_list(count) for band, count in out.band_seen_by.items()}

    def _per_list(self, count: Tensor) -> Tensor:
        return count.new_zeros(count.shape[0], self.of, count.shape[1])

    def sibling(self) -> "Places":
        """Places that write to the same rows, but sum over queries on their own."""
        other = copy(self)
        other.ledger = self.ledger.sibling()
        other._count_by_list()
        return other

    def absorb(self, sibling: "Places") -> None:
        """Add a sibling's sums over queries."""
        self.ledger.absorb(sibling.ledger)

    def put(self, unit: Unit, part: Attended) -> None:
        """The answers of one dense call."""
        out = self.ledger.out
        for name in _ROWS:
            self._put_rows(unit, getattr(out, name), getattr(part, name))
        for name in _ROWS_BY_NAME:
            for key, rows in getattr(part, name).items():
                self._put_rows(unit, getattr(out, name)[key], rows)
        self._put_top_index(unit, part)
        if out.visible is not None and part.visible is not None:
            out.visible[:, unit.pick, unit.rows] = split(part.visible, 0, len(unit.pick))
        self._put_table(unit, part)
        self._add(unit, out.column, part.column)
        for name in ("bands", "query_groups"):
            for key, sums in getattr(part, name).items():
                self._add(unit, getattr(out, name)[key], sums)
        self._count(unit, out.seen_by, part.seen_by)
        for band, count in part.band_seen_by.items():
            self._count(unit, out.band_seen_by[band], count)

    def close(self) -> Attended:
        """The answers, in float32."""
        out, heads = self.ledger.out, self.ledger.scores.query.shape[1]

        def counted(count: Tensor) -> Tensor:
            return count.repeat_interleave(heads // self.of, dim=1) if self.by_head else count[:, 0]

        out.visible = None if out.visible is None else counted(out.visible)
        out.seen_by = None if out.seen_by is None else counted(out.seen_by)
        out.band_seen_by = {band: counted(count) for band, count in out.band_seen_by.items()}
        return self.ledger.close()

    def _apart(self, whole: Tensor) -> Tensor:
        """``[B, H, ...]`` as ``[B, lists, heads of a list, ...]``."""
        return split(whole, 1, self.of)

    def _put_rows(self, unit: Unit, whole: Tensor | None, part: Tensor | None) -> None:
        """Rows ``[B, H, Q, ...]``; groups that no gathered key belongs to are missing in the part."""
        if whole is None or part is None:
            return
        rows, found = self._apart(whole)[:, :, :, unit.rows], split(part, 0, len(unit.pick))
        rows = rows[:, :, :, :, : found.shape[4]] if rows.ndim > 4 else rows
        if unit.whole:
            rows.copy_(found)
        else:
            rows[:, unit.pick] = found.to(rows.dtype)

    def _put_top_index(self, unit: Unit, part: Attended) -> None:
        if self.ledger.out.top_index is None or part.top_index is None:
            return
        found = split(part.top_index, 0, len(unit.pick))
        index = unit.index.expand(found.shape[0], -1, -1)
        storage = index.gather(2, found.clamp_min(0).flatten(2)).view_as(found)
        rows = self._apart(self.ledger.out.top_index)
        rows[:, unit.pick, :, unit.rows] = torch.where(found < 0, -1, storage)

    def _put_table(self, unit: Unit, part: Attended) -> None:
        """Logs of sums, ``[B, H, blocks, Q]``, at the blocks that were gathered."""
        if self.ledger.out.table is None or part.table is None:
            return
        size, table = self.want.table, self._apart(self.ledger.out.table)
        found = split(part.table, 0, len(unit.pick))
        blocks = (unit.index[..., ::size] // size).expand(found.shape[0], -1, -1)
        known = torch.ones_like(unit.index, dtype=torch.bool) if unit.listed is None else unit.listed
        for b in range(found.shape[0]):
            for i, one in enumerate(unit.pick):
                real = known[b % known.shape[0], i].view(-1, size).any(-1).nonzero()[:, 0]
                table[b, one, :, :, unit.rows][:, blocks[b, i][real]] = found[b, i][:, real]

    def _add(self, unit: Unit, whole: Tensor | None, part: Tensor | None) -> None:
        """Sums over queries, ``[B, H, (groups,) K]``, added at the gathered keys."""
        if whole is None or part is None:
            return
        found, sums = split(part, 0, len(unit.pick)), self._apart(whole)
        if sums.ndim == 5:
            sums = sums[:, :, :, : found.shape[3]]
        self._scatter(unit, sums, found)

    def _count(self, unit: Unit, whole: Tensor | None, part: Tensor | None) -> None:
        if whole is not None and part is not None:
            self._scatter(unit, whole, split(part, 0, len(unit.pick)))

    def _scatter(self, unit: Unit, whole: Tensor, part: Tensor) -> None:
        for b in range(part.shape[0]):
            index = unit.index[b % unit.index.shape[0]]
            for i, one in enumerate(unit.pick):
                whole[b, one].scatter_add_(-1, index[i].expand(part.shape[2:]), part[b, i])
