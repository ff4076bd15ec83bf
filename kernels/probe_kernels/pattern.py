"""Raw rows and tiles of the pattern and of the scores, for those who ask for the numbers themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probe_kernels.block import Inputs
from probe_kernels.by_heads import of_heads, renumbered
from probe_kernels.chunks import HIDDEN, Chunk, Edge, Ground
from probe_kernels.form import form
from probe_kernels.types import Edits, Layout, Scores

_BLOCK_NUMBERS = 2**22


def pattern_block(
    scores: Scores,
    layout: Layout,
    rows: slice | Tensor,
    keys: slice,
    *,
    heads: Sequence[int] | None = None,
    lse: Tensor | None = None,
    edits: Edits | None = None,
) -> Tensor:
    """Probabilities of some rows and keys, float32 ``[B, h, rows, keys]``, 0 where hidden.

    Without `lse` (``[B, H, Q]``, all heads, with the sink) each row's normaliser is computed from the whole row; with
    it only the tile itself is. Memory is that of the answer and one block.

    Args:
        scores: What makes the scores.
        layout: Where queries and keys lie.
        rows: Storage slice or int64 indices of queries.
        keys: Storage slice of keys.
        heads: Query heads; None = all.
        lse: From an earlier `attend` of the same (unedited) scores.
        edits: Applied as in `attend`.

    Raises:
        ValueError: `lse` and `edits` together (edits need whole rows).
    """
    if lse is not None and edits is not None:
        raise ValueError(
            "pattern_block got lse and edits; edited blocks need whole rows, so give only one of them"
        )
    first, last, _ = keys.indices(scores.key.shape[2])
    keys = slice(first, max(first, last))
    every = range(scores.query.shape[1])
    wanted = [every[head] for head in (every if heads is None else heads)]
    # An edit is given all of its heads or none, so theirs are formed as well.
    formed = sorted({*wanted, *(() if edits is None else edits.heads(len(every)))})
    scores, lse = of_heads(replace(scores, value=None), formed), None if lse is None else lse[:, formed]
    edits = None if edits is None else renumbered(edits, formed)
    chosen = [formed.index(head) for head in wanted]
    ground = Ground(layout, scores.query.shape[2], scores.key.shape[2])
    inputs = Inputs.of(scores)
    width = scores.key.shape[2] if lse is None else keys.stop - keys.start
    size = max(1, _BLOCK_NUMBERS // max(1, scores.query.shape[0] * scores.query.shape[1] * width))
    parts = []
    for part in _runs(rows, scores.query.shape[2], size):
        if lse is None:
            block = _whole_rows(inputs, ground, part, keys, edits or Edits())
        else:
            block = torch.exp(
                _tile(inputs, ground, part, keys) - lse[:, :, part, None].clamp_min(HIDDEN / 10)
            )
        parts.append(block[:, chosen].float())
    if not parts:
        return scores.query.new_zeros(scores.query.shape[0], len(wanted), 0, keys.stop - keys.start)
    return torch.cat(parts, dim=2)


def score_block(scores: Scores, layout: Layout, rows: slice | Tensor, keys: slice) -> Tensor:
    """Scores of some rows and keys, float32 ``[B, H, rows, keys]``: after scale, softcap, bias; -inf where hidden."""
    first, last, _ = keys.indices(scores.key.shape[2])
    keys = slice(first, max(first, last))
    ground, inputs = Ground(layout, scores.query.shape[2], scores.key.shape[2]), Inputs.of(scores)
    runs = _runs(rows, scores.query.shape[2], scores.query.shape[2])
    parts = [_tile(inputs, ground, part, keys) for part in runs]
    if not parts:
        return scores.query.new_zeros(*scores.query.shape[:2], 0, keys.stop - keys.start)
    s = torch.cat(parts, dim=2)
    return s.masked_fill(s <= HIDDEN, -torch.inf).float()


def _whole_rows(inputs: Inputs, ground: Ground, rows: slice, keys: slice, edits: Edits) -> Tensor:
    chunk = ground.chunk(rows)
    block = form(inputs, ground, chunk, edits)
    p = block.p
    out = p.new_zeros(*p.shape[:3], keys.stop - keys.start)
    lo, hi = max(keys.start, chunk.keys.start), min(keys.stop, chunk.keys.stop)
    if lo < hi:
        part = p[..., lo - chunk.keys.start : hi - chunk.keys.start]
        out[..., lo - keys.start : hi - keys.start] = part
    return out


def _tile(inputs: Inputs, ground: Ground, rows: slice, keys: slice) -> Tensor:
    seen = ground.tile(rows, keys)
    edges = () if seen is None else (Edge(keys, seen),)
    return inputs.raw(
        Chunk(rows, keys, edges, ground.layout.key_pos.device), ground.layout.query_pos, ground.layout.key_pos
    )


def _runs(rows: slice | Tensor, n: int, size: int) -> Iterator[slice]:
    """Storage slices of at most `size` rows: masks and edits speak of slices."""
    wanted = list(range(n))[rows] if isinstance(rows, slice) else [int(row) % n for row in rows.tolist()]
    start = 0
    for stop in range(1, len(wanted) + 1):
        ends = stop == len(wanted) or wanted[stop] != wanted[stop - 1] + 1 or stop - start == size
        if ends:
            yield slice(wanted[start], wanted[stop - 1] + 1)
            start = stop
