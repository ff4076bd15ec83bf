"""The answers of one call under construction, and the constants that its statistics share."""

from copy import copy

import torch
from torch import Tensor

from probe_kernels.chunks import Ground
from probe_kernels.types import Attended, Scores, Want


def at(tensor: Tensor, batch: slice) -> Tensor:
    """Some batch rows of a tensor whose first axis is 1 or B."""
    return tensor if tensor.shape[0] == 1 else tensor[batch]


class Ledger:
    """Answers with the defaults of rows that see no key, to be filled block by block."""

    def __init__(self, scores: Scores, ground: Ground, want: Want, dtype: torch.dtype) -> None:
        self.scores = scores
        self.ground = ground
        self.want = want
        self.dtype = dtype
        self.real = ground.query_real
        self.causal = any(p.name == "causal" for p in ground.layout.mask.all_of)
        self.labels = {name: _one_hot(ids, dtype) for name, ids in want.key_groups.items()}
        self.query_labels = {name: _one_hot(ids, dtype) for name, ids in want.query_groups.items()}
        self.called: dict[str, list[Tensor]] = {name: [] for name in want.rows}
        self.out = Attended(n_keys=scores.key.shape[2], table_block=want.table)
        self._per_row()
        self._per_key()

    def _per_row(self) -> None:
        query, want, out = self.scores.query, self.want, self.out
        b, h, n = query.shape[:3]

        def rows(*more: int, fill: float = 0.0) -> Tensor:
            return query.new_full((b, h, n, *more), fill, dtype=self.dtype)

        out.lse = rows(fill=-torch.inf) if want.lse else None
        out.sink_mass = rows() if self.scores.sinks is not None else None
        out.entropy = rows() if want.entropy else None
        out.square = rows() if want.square else None
        out.distance = rows() if want.distance else None
        if want.top:
            out.top_p, out.top_index = rows(), query.new_full((b, h, n), -1, dtype=torch.int64)
        if want.visible:
            out.visible = query.new_zeros((b, n), dtype=torch.int64)
        out.first = {one: rows() for one in want.first}
        out.offsets = {one: rows() for one in want.offsets}
        out.matches = {name: rows() for name in want.matches}
        out.key_groups = {name: rows(labels.shape[-1]) for name, labels in self.labels.items()}
        if self.scores.value is not None:
            width = self.scores.value.shape[-1]
            out.parts = {name: rows(self.labels[name].shape[-1], width) for name in want.parts}
        if want.table:
            blocks = -(-self.scores.key.shape[2] // want.table)
            out.table = query.new_full((b, h, blocks, n), -torch.inf, dtype=self.dtype)

    def _per_key(self) -> None:
        query, want, out = self.scores.query, self.want, self.out
        b, h, k = query.shape[0], query.shape[1], self.scores.key.shape[2]

        def mass(*groups: int) -> Tensor:
            return query.new_zeros((b, h, *groups, k), dtype=self.dtype)

        def number() -> Tensor:
            return query.new_zeros((b, k), dtype=torch.int64)

        out.column, out.seen_by = (mass(), number()) if want.column else (None, None)
        out.bands = {band: mass() for band in want.bands}
        out.band_seen_by = {band: number() for band in want.bands}
        out.query_groups = {name: mass(labels.shape[-1]) for name, labels in self.query_labels.items()}

    def sibling(self) -> "Ledger":
        """A ledger that writes to the same rows, but sums over queries on its own."""
        other = copy(self)
        other.out = copy(self.out)
        other._per_key()
        return other

    def absorb(self, sibling: "Ledger") -> None:
        """Add a sibling's sums over queries."""
        mine, theirs = self.out, sibling.out
        if mine.column is not None and theirs.column is not None:
            mine.column += theirs.column
        if mine.seen_by is not None and theirs.seen_by is not None:
            mine.seen_by += theirs.seen_by
        for band in mine.bands:
            mine.bands[band] += theirs.bands[band]
            mine.band_seen_by[band] += theirs.band_seen_by[band]
        for name in mine.query_groups:
            mine.query_groups[name] += theirs.query_groups[name]

    def close(self) -> Attended:
        """The answers, in float32."""
        for name, parts in self.called.items():
            self.out.rows[name] = torch.cat(parts, dim=2)
        return self.out if self.dtype == torch.float32 else self.out.in_float32()


def _one_hot(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Labels ``[b, n]`` as ``[b, n, groups]`` of 0 and 1; -1 belongs to no group."""
    groups = max(int(ids.max()) + 1, 0) if ids.numel() else 0
    return (ids.long()[..., None] == torch.arange(groups, device=ids.device)).to(dtype)
