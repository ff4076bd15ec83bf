"""Where the statistics of a sweep are collected: one small function per statistic, fed block by block."""

from collections.abc import Callable

import torch
from torch import Tensor

from probe_kernels.block import HIDDEN, Block, of_block
from probe_kernels.chunks import Chunk, Ground
from probe_kernels.firsts import first_masses
from probe_kernels.types import Attended, Scores, Want


def at(tensor: Tensor, batch: slice) -> Tensor:
    """Some batch rows of a tensor whose first axis is 1 or B."""
    return tensor if tensor.shape[0] == 1 else tensor[batch]


class Tally:
    """The answers of one call under construction, and the constants that the statistics need."""

    def __init__(self, scores: Scores, ground: Ground, want: Want, dtype: torch.dtype) -> None:
        self.scores = scores
        self.ground = ground
        self.want = want
        self.dtype = dtype
        self.out = _outputs(scores, want, dtype)
        self.real = ground.query_real
        self.labels = {name: _one_hot(ids, dtype) for name, ids in want.key_groups.items()}
        self.query_labels = {name: _one_hot(ids, dtype) for name, ids in want.query_groups.items()}
        self._allocate_groups()
        self._rows: dict[str, list[Tensor]] = {name: [] for name in want.rows}
        self.causal = any(p.name == "causal" for p in ground.layout.mask.all_of)

    def _allocate_groups(self) -> None:
        query, key = self.scores.query, self.scores.key
        b, h, n = query.shape[:3]
        for name, labels in self.labels.items():
            groups = labels.shape[-1]
            self.out.key_groups[name] = query.new_zeros(b, h, n, groups, dtype=self.dtype)
            if name in self.want.parts:
                width = _value(self.scores).shape[-1]
                self.out.parts[name] = query.new_zeros(b, h, n, groups, width, dtype=self.dtype)
        for name, labels in self.query_labels.items():
            size = (b, h, labels.shape[-1], key.shape[2])
            self.out.query_groups[name] = query.new_zeros(size, dtype=self.dtype)

    def count(self, chunk: Chunk) -> None:
        """What depends on the mask alone: visible keys per row, real queries per key."""
        want, out = self.want, self.out
        if out.visible is not None:
            out.visible[:, chunk.rows] = chunk.count_visible().to(out.visible.device)
        if out.seen_by is not None:
            out.seen_by[:, chunk.keys] += self._seen(chunk, slice(0, chunk.n_keys), None)
        for band in want.bands:
            columns, inside = self.band(chunk, band)
            if columns.start < columns.stop:
                storage = _storage(chunk, columns)
                out.band_seen_by[band][:, storage] += self._seen(chunk, columns, inside)

    def _seen(self, chunk: Chunk, columns: slice, inside: Tensor | None) -> Tensor:
        seen = chunk.visible(columns) if chunk.edges or inside is not None else None
        if inside is not None and seen is not None:
            seen = seen & inside
        real = None if self.real is None else self.real[:, chunk.rows, None]
        if seen is None:
            return torch.as_tensor(chunk.n_rows) if real is None else real.sum(1)
        return (seen if real is None else seen & real).sum(1)

    def band(self, chunk: Chunk, band: tuple[int, int]) -> tuple[slice, Tensor]:
        """The columns of a chunk that may lie lo…hi behind its queries, and which pairs do."""
        lo, hi = band
        ground, layout = self.ground, self.ground.layout
        columns = slice(0, chunk.n_keys)
        if ground.key_start is not None and ground.query_start is not None:
            back = max(ground.query_start) - min(ground.key_start)
            front = min(ground.query_start) - max(ground.key_start)
            start = chunk.rows.start + front - hi - chunk.keys.start
            stop = chunk.rows.stop + back - lo - chunk.keys.start
            columns = slice(max(start, 0), max(min(stop, chunk.n_keys), 0))
        storage = _storage(chunk, columns)
        gap = layout.query_pos[:, chunk.rows, None] - layout.key_pos[:, None, storage]
        return columns, (gap >= lo) & (gap <= hi)

    def add(self, block: Block) -> None:
        """Fold one block into every wanted statistic."""
        for wanted, fold in _FOLDS:
            if getattr(self.want, wanted):
                fold(self, block)
        if block.sink_mass is not None and self.out.sink_mass is not None:
            self.out.sink_mass[block.batch, block.heads, block.chunk.rows] = block.sink_mass
        if self.want.rows:
            p = block.weight * block.inverse[..., None]
            for name, function in self.want.rows.items():
                self._rows[name].append(function(p.float(), block.chunk.rows, block.chunk.keys))

    def finish(self) -> Attended:
        """Everything in float32."""
        for name, parts in self._rows.items():
            self.out.rows[name] = torch.cat(parts, dim=2)
        return self.out.in_float32()


def _lse(tally: Tally, block: Block) -> None:
    if tally.out.lse is not None:
        tally.out.lse[block.batch, block.heads, block.chunk.rows] = block.lse


def _entropy(tally: Tally, block: Block) -> None:
    if tally.out.entropy is None:
        return
    if block.scores is None:
        entropy = -torch.special.xlogy(block.weight, block.weight).sum(-1)
        if block.sink_mass is not None:
            entropy = entropy - torch.special.xlogy(block.sink_mass, block.sink_mass)
    else:
        mean = torch.linalg.vecdot(block.weight, block.scores) * block.inverse
        if block.sink_mass is not None and tally.scores.sinks is not None:
            sinks = of_block(tally.scores.sinks, block.batch, block.heads, block.chunk.rows).to(mean.dtype)
            mean = mean + torch.where(block.sink_mass > 0, block.sink_mass * sinks, 0.0)
        entropy = torch.where(block.lse > -torch.inf, block.lse - mean, 0.0).clamp_min(0.0)
    tally.out.entropy[block.batch, block.heads, block.chunk.rows] = entropy


def _square(tally: Tally, block: Block) -> None:
    if tally.out.square is not None:
        square = torch.linalg.vecdot(block.weight, block.weight) * block.inverse.square()
        tally.out.square[block.batch, block.heads, block.chunk.rows] = square


def _top(tally: Tally, block: Block) -> None:
    if tally.out.top_p is None or tally.out.top_index is None:
        return
    top, index = block.weight.max(-1)
    top = top * block.inverse
    rows = block.batch, block.heads, block.chunk.rows
    tally.out.top_p[rows] = top
    tally.out.top_index[rows] = (index + block.chunk.keys.start).masked_fill(top == 0, -1)


def _distance(tally: Tally, block: Block) -> None:
    if tally.out.distance is None:
        return
    chunk, layout = block.chunk, tally.ground.layout
    query = at(layout.query_pos, block.batch)[:, chunk.rows]
    key = at(layout.key_pos, block.batch)[:, chunk.keys]
    if tally.causal and block.scores is not None:
        # Counted from the middle of the chunk, so that far positions do not cancel in float32.
        middle = query[:, query.shape[1] // 2, None]
        behind = block.linear((middle - key).to(tally.dtype)[..., None])[..., 0]
        mass = block.linear(torch.ones_like(key[:1, :, None], dtype=tally.dtype))[..., 0]
        distance = behind + mass * (query - middle)[:, None]
    else:
        gap = (query[:, :, None] - key[:, None, :]).abs().to(tally.dtype)
        distance = torch.linalg.vecdot(block.weight, gap[:, None]) * block.inverse
    tally.out.distance[block.batch, block.heads, chunk.rows] = distance


def _column(tally: Tally, block: Block) -> None:
    if tally.out.column is not None:
        tally.out.column[block.batch, block.heads, block.chunk.keys] += _down(tally, block, None)


def _bands(tally: Tally, block: Block) -> None:
    for band, column in tally.out.bands.items():
        columns, inside = tally.band(block.chunk, band)
        if columns.start < columns.stop:
            inside = at(inside, block.batch)
            mass = _down(tally, block, columns, inside)
            column[block.batch, block.heads, _storage(block.chunk, columns)] += mass


def _down(tally: Tally, block: Block, columns: slice | None, inside: Tensor | None = None) -> Tensor:
    """Σ over real rows of p, ``[b, h, keys]``, optionally of some columns and of the pairs `inside`."""
    weight = block.weight if columns is None else block.weight[..., columns]
    inverse = block.inverse
    real = None if tally.real is None else at(tally.real, block.batch)[:, None, block.chunk.rows]
    if real is not None:
        inverse = inverse.masked_fill(~real, 0.0)
    if not block.clean:
        weight = weight * inverse[..., None]
        if real is not None:
            weight = weight.masked_fill(~real[..., None], 0.0)
        seen = block.chunk.visible(columns or slice(0, block.chunk.n_keys))
        weight = weight.masked_fill(~at(seen, block.batch)[:, None], 0.0)
        if inside is not None:
            weight = weight.masked_fill(~inside[:, None], 0.0)
        return weight.sum(-2)
    if inside is not None:
        weight = weight * inside[:, None]
    return torch.matmul(inverse[..., None, :], weight)[..., 0, :]


def _first(tally: Tally, block: Block) -> None:
    key_pos = None if tally.ground.key_start is not None else tally.ground.layout.key_pos
    for n, mass in first_masses(block, tally.want.first, key_pos).items():
        tally.out.first[n][block.batch, block.heads, block.chunk.rows] = mass


def _offsets(tally: Tally, block: Block) -> None:
    chunk, ground = block.chunk, tally.ground
    query = at(ground.layout.query_pos, block.batch)[:, chunk.rows]
    for offset, out in tally.out.offsets.items():
        wanted = query - offset
        if ground.key_start is not None:
            first = at(ground.layout.key_pos, block.batch)[:, :1]
            index = wanted - first - chunk.keys.start
            inside = (index >= 0) & (index < chunk.n_keys)
            index = index.clamp(0, chunk.n_keys - 1)[:, None, :, None]
            mass = block.weight.gather(-1, index.expand(*block.weight.shape[:3], 1))[..., 0]
            mass = torch.where(inside[:, None], mass, 0.0)
        else:
            key = at(ground.layout.key_pos, block.batch)[:, chunk.keys]
            hit = (key[:, None, :] == wanted[:, :, None])[:, None]
            mass = torch.where(hit, block.weight, 0.0).sum(-1)
        out[block.batch, block.heads, chunk.rows] = mass * block.inverse


def _matches(tally: Tally, block: Block) -> None:
    chunk = block.chunk
    for name, match in tally.want.matches.items():
        query = at(match.query_ids, block.batch)[:, chunk.rows, None]
        same = (query == at(match.key_ids, block.batch)[:, None, chunk.keys])[:, None]
        mass = torch.where(same, block.weight, 0.0).sum(-1) * block.inverse
        tally.out.matches[name][block.batch, block.heads, chunk.rows] = mass


def _key_groups(tally: Tally, block: Block) -> None:
    for name, labels in tally.labels.items():
        mass = block.linear(at(labels, block.batch)[:, block.chunk.keys])
        tally.out.key_groups[name][block.batch, block.heads, block.chunk.rows] = mass


def _query_groups(tally: Tally, block: Block) -> None:
    chunk = block.chunk
    for name, labels in tally.query_labels.items():
        rows = at(labels, block.batch)[:, None, chunk.rows].transpose(-1, -2)  # [b, 1, R, rows]
        if tally.real is not None:
            rows = rows * at(tally.real, block.batch)[:, None, None, chunk.rows]
        weight, inverse = block.weight, block.inverse
        if not block.clean:
            alive = rows.sum(-2) > 0
            weight = (weight * inverse[..., None]).masked_fill(~alive[..., None], 0.0)
            inverse = torch.ones_like(inverse)
        out = tally.out.query_groups[name]
        out[block.batch, block.heads, :, chunk.keys] += torch.matmul(rows * inverse[..., None, :], weight)


def _table(tally: Tally, block: Block) -> None:
    if tally.out.table is None:
        return
    size, chunk = tally.want.table, block.chunk
    if block.scores is None:
        raise ValueError(
            "the block-LSE table needs scores, but the probabilities are edited; ask for one of the two"
        )
    s = torch.nn.functional.pad(block.scores, (0, -chunk.n_keys % size), value=HIDDEN)
    blocks = torch.logsumexp(s.unflatten(-1, (-1, size)), dim=-1)
    blocks = blocks.masked_fill(blocks <= HIDDEN / 10, -torch.inf).transpose(-1, -2)
    first = chunk.keys.start // size
    tally.out.table[block.batch, block.heads, first : first + blocks.shape[-2], chunk.rows] = blocks


_FOLDS: tuple[tuple[str, Callable[[Tally, Block], None]], ...] = (
    ("lse", _lse),
    ("entropy", _entropy),
    ("square", _square),
    ("top", _top),
    ("distance", _distance),
    ("column", _column),
    ("bands", _bands),
    ("first", _first),
    ("offsets", _offsets),
    ("matches", _matches),
    ("key_groups", _key_groups),
    ("query_groups", _query_groups),
    ("table", _table),
)


def _storage(chunk: Chunk, columns: slice) -> slice:
    return slice(chunk.keys.start + columns.start, chunk.keys.start + columns.stop)


def _value(scores: Scores) -> Tensor:
    if scores.value is None:
        raise ValueError(
            "z or parts were wanted, but the scores carry no value; give a value or want neither"
        )
    return scores.value


def _one_hot(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Labels ``[b, n]`` as ``[b, n, groups]`` of 0 and 1; -1 belongs to no group."""
    groups = int(ids.max()) + 1 if ids.numel() else 0
    return (ids.long()[..., None] == torch.arange(groups, device=ids.device)).to(dtype)


def _outputs(scores: Scores, want: Want, dtype: torch.dtype) -> Attended:
    b, h, n = scores.query.shape[:3]
    k = scores.key.shape[2]
    query = scores.query

    def rows(fill: float = 0.0) -> Tensor:
        return query.new_full((b, h, n), fill, dtype=dtype)

    def counts(size: int) -> Tensor:
        return query.new_zeros((b, size), dtype=torch.int64)

    def columns() -> Tensor:
        return query.new_zeros((b, h, k), dtype=dtype)

    return Attended(
        lse=rows(-torch.inf) if want.lse else None,
        sink_mass=rows() if scores.sinks is not None else None,
        entropy=rows() if want.entropy else None,
        square=rows() if want.square else None,
        top_p=rows() if want.top else None,
        top_index=query.new_full((b, h, n), -1, dtype=torch.int64) if want.top else None,
        distance=rows() if want.distance else None,
        visible=counts(n) if want.visible else None,
        column=columns() if want.column else None,
        seen_by=counts(k) if want.column else None,
        first={one: rows() for one in want.first},
        offsets={one: rows() for one in want.offsets},
        bands={one: columns() for one in want.bands},
        band_seen_by={one: counts(k) for one in want.bands},
        matches={name: rows() for name in want.matches},
        table=query.new_full((b, h, -(-k // want.table), n), -torch.inf, dtype=dtype) if want.table else None,
        n_keys=k,
        table_block=want.table,
    )
