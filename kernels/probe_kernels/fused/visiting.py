"""The Triton backend under a `Visit`: rows go to the kernel, what is summed over queries to the sparse torch path."""

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from probe_kernels import gradient, sparse
from probe_kernels.chunks import Ground
from probe_kernels.fused.launch import Visited
from probe_kernels.fused.plan import Tiles
from probe_kernels.types import Attended, Layout, Scores, Want
from probe_kernels.visit import Visit

_LEAST_ROWS = 16  # of a tile, as tensor cores ask

Rows = Callable[[Scores, Layout, Want, Visited | None], Attended]


def attend(scores: Scores, layout: Layout, want: Want, visit: Visit, *, rows_of: Rows) -> Attended:
    """Attention of each block of queries over its listed keys.

    The sparse torch path, on the same device, takes the whole call where gradients are followed or where no tile of at
    least 16 rows divides a block of the visit; else it takes what is not of rows: columns, counts and the table.
    """
    n_query, n_key = scores.query.shape[2], scores.key.shape[2]
    divides = visit.rows % _LEAST_ROWS == 0 or visit.rows >= n_query
    if gradient.needed(scores) or not divides:
        return sparse.attend(scores, layout, want, visit)
    others = _not_of_rows(want, in_order=Ground(layout, n_query, n_key).key_start is not None)
    mine = _without(want, others)
    index = visit.index.to(scores.query.device, torch.int32).contiguous()
    out = rows_of(scores, layout, mine, Visited(index, visit.rows))
    if others == Want(z=False):
        return out
    more = sparse.attend(scores, layout, others, visit)
    for one in fields(Attended):
        if one.name not in {"z", "n_keys", "sink_mass"} and _holds(getattr(more, one.name)):
            setattr(out, one.name, getattr(more, one.name))
    return out


def narrowed(tiles: Tiles, visited: Visited) -> Tiles:
    """Tiles no taller than a block of the visit, which they divide."""
    rows = tiles.rows
    while rows > _LEAST_ROWS and visited.rows % rows and visited.index.shape[2] > 1:
        rows //= 2
    return replace(tiles, rows=rows, pack=False)


def _not_of_rows(want: Want, *, in_order: bool) -> Want:
    return Want(
        z=False,
        visible=want.visible,
        column=want.column,
        bands=want.bands,
        query_groups=want.query_groups,
        table=want.table,
        first=() if in_order else want.first,
    )


def _without(want: Want, others: Want) -> Want:
    left = replace(want, visible=False, column=False, bands=(), query_groups={}, table=0)
    return replace(left, first=()) if others.first else left


def _holds(value: object) -> bool:
    return isinstance(value, Tensor) or bool(value)
