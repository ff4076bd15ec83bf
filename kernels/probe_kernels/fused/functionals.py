"""What a statistic that is linear in p weighs each pair with, as Triton functions.

Each is given positions of a tile (``i`` of the queries ``[BM, 1]``, ``j`` of the keys ``[1, BN]``, or on their side;
both less the same number, near 0), the ids of queries
and keys that the statistic compares (``x``, ``y``), the rank of the key among those that the row sees, from 1, and the
statistic's numbers.
"""

from typing import Any

import triton
import triton.language as tl


@triton.jit
def distance(i, j, x, y, rank, n):
    """How far the key is."""
    return tl.abs(i.to(tl.float32) - j.to(tl.float32))


@triton.jit
def offset(i, j, x, y, rank, n):
    """The key exactly n[0] positions behind."""
    return (i - j == n[0]).to(tl.float32)


@triton.jit
def among_first(i, j, x, y, rank, n):
    """The first n[0] keys that the row sees."""
    return (rank <= n[0]).to(tl.float32)


@triton.jit
def match(i, j, x, y, rank, n):
    """Keys with the query's id."""
    return (x == y).to(tl.float32)


@triton.jit
def key_group(i, j, x, y, rank, n):
    """Keys of group n[0]."""
    return ((y == n[0]) & (i == i)).to(tl.float32)


@triton.jit
def query_group(i, j, x, y, rank, n):
    """Queries of group n[0]."""
    return ((x == n[0]) & (j == j)).to(tl.float32)


@triton.jit
def band(i, j, x, y, rank, n):
    """Keys n[0] to n[1] positions behind."""
    return ((i - j >= n[0]) & (i - j <= n[1])).to(tl.float32)


@triton.jit
def whole(i, j, x, y, rank, n):
    """Every pair alike."""
    return ((i == i) & (j == j)).to(tl.float32)


KINDS: dict[str, Any] = {
    "distance": distance,
    "offset": offset,
    "first": among_first,
    "match": match,
    "key_group": key_group,
    "query_group": query_group,
    "band": band,
    "whole": whole,
}
