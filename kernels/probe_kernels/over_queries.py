"""Statistics of a key: sums over the real queries that see it, and their number."""

import torch
from torch import Tensor

from probe_kernels.block import Block
from probe_kernels.chunks import Chunk
from probe_kernels.ledger import Ledger, at

_FEW = 8  # up to so many heads, one vector-matrix product each beats a batched product


def count(ledger: Ledger, chunk: Chunk) -> None:
    """What depends on the mask alone: visible keys per row, real queries per key."""
    out = ledger.out
    if out.visible is not None:
        out.visible[:, chunk.rows] = chunk.count_visible()
    if out.seen_by is not None:
        real = None if ledger.real is None else ledger.real[:, chunk.rows, None]
        out.seen_by[:, chunk.keys] += chunk.n_rows if real is None else real.sum(1)
        for edge in chunk.edges:
            out.seen_by[:, edge.keys] -= edge.hidden_per_key if real is None else (edge.hidden & real).sum(1)
    for band in ledger.want.bands:
        columns, inside = _band(ledger, chunk, band)
        if columns.start < columns.stop:
            out.band_seen_by[band][:, chunk.storage(columns)] += _seen(ledger, chunk, columns, inside)


def _seen(ledger: Ledger, chunk: Chunk, columns: slice, inside: Tensor) -> Tensor:
    seen = chunk.visible(columns) & inside
    if ledger.real is not None:
        seen = seen & ledger.real[:, chunk.rows, None]
    return seen.sum(1)


def _band(ledger: Ledger, chunk: Chunk, band: tuple[int, int]) -> tuple[slice, Tensor]:
    """The columns of a chunk that may lie lo…hi behind its queries, and which pairs do."""

    def make() -> tuple[slice, Tensor]:
        lo, hi = band
        ground, layout = ledger.ground, ledger.ground.layout
        columns = slice(0, chunk.n_keys)
        if ground.key_start is not None and ground.query_start is not None:
            back = max(ground.query_start) - min(ground.key_start)
            front = min(ground.query_start) - max(ground.key_start)
            start = chunk.rows.start + front - hi - chunk.keys.start
            stop = chunk.rows.stop + back - lo - chunk.keys.start
            columns = slice(max(start, 0), max(min(stop, chunk.n_keys), 0))
        gap = layout.query_pos[:, chunk.rows, None] - layout.key_pos[:, None, chunk.storage(columns)]
        return columns, (gap >= lo) & (gap <= hi)

    return chunk.once(("band", band), make)


def column(ledger: Ledger, block: Block) -> None:
    """Σ over real queries of p, per key."""
    if ledger.out.column is not None:
        everything = slice(0, block.chunk.n_keys)
        _add_down(ledger, block, ledger.out.column, everything, block.p)


def bands(ledger: Ledger, block: Block) -> None:
    """Σ over real queries a given distance ahead."""
    for band, out in ledger.out.bands.items():
        columns, inside = _band(ledger, block.chunk, band)
        if columns.start < columns.stop:
            p = block.p[..., columns]
            inside = at(inside, block.batch)[:, None]
            p = p * inside if block.clean else p.masked_fill(~inside, 0.0)
            _add_down(ledger, block, out, columns, p)


def _add_down(ledger: Ledger, block: Block, out: Tensor, columns: slice, p: Tensor) -> None:
    real = None if ledger.real is None else at(ledger.real, block.batch)[:, None, block.chunk.rows]
    target = out[block.batch, block.heads, block.chunk.storage(columns)]
    if not block.clean:
        if real is not None:
            p = p.masked_fill(~real[..., None], 0.0)
        target += p.sum(-2)
        return
    b, h, rows, _ = p.shape
    weight = p.new_ones(1, 1, rows) if real is None else real.to(p.dtype)
    if b * h > _FEW:
        target += torch.matmul(weight[..., None, :], p)[..., 0, :]
        return
    for i in range(b):
        for j in range(h):
            target[i, j].addmv_(p[i, j].t(), weight[i % weight.shape[0], 0])


def query_groups(ledger: Ledger, block: Block) -> None:
    """Σ over the real queries of each group."""
    chunk = block.chunk
    for name, labels in ledger.query_labels.items():
        rows = at(labels, block.batch)[:, None, chunk.rows].transpose(-1, -2)  # [b, 1, groups, rows]
        if ledger.real is not None:
            rows = rows * at(ledger.real, block.batch)[:, None, None, chunk.rows]
        target = ledger.out.query_groups[name][block.batch, block.heads, :, chunk.keys]
        if block.clean:
            target += torch.matmul(rows, block.p)
            continue
        for group in range(rows.shape[-2]):
            member = rows[..., group, :, None] > 0
            target[:, :, group] += block.p.masked_fill(~member, 0.0).sum(-2)
