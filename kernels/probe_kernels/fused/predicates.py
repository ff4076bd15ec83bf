"""The rules of `probe_kernels.mask` as Triton functions: one per kind, composed at compile time.

Each is given positions and segments of a tile (``i``, ``a`` of the queries ``[BM, 1]``, ``j``, ``b`` of the keys
``[1, BN]``), the rule's numbers and the address of its table (of no meaning where it has none).
"""

from typing import Any

import triton
import triton.language as tl


@triton.jit
def causal(i, j, a, b, n, table):
    """Keys at or before the query."""
    return j <= i


@triton.jit
def within(i, j, a, b, n, table):
    """Keys less than n[0] positions behind."""
    return i - j < n[0]


@triton.jit
def near(i, j, a, b, n, table):
    """Keys at most n[0] positions away, on either side."""
    return tl.abs(i - j) <= n[0]


@triton.jit
def every(i, j, a, b, n, table):
    """Keys a multiple of n[0] positions away."""
    return (i - j) % n[0] == 0


@triton.jit
def floored(a, n):
    """The quotient a / n rounded down, whichever way the machine rounds below zero."""
    q = a // n
    return q - (a - q * n < 0).to(tl.int32)


@triton.jit
def same_chunk(i, j, a, b, n, table):
    """Keys of the query's own block of n[0] positions."""
    return floored(i, n[0]) == floored(j, n[0])


@triton.jit
def first(i, j, a, b, n, table):
    """Keys at positions below n[0]."""
    return (j < n[0]) & (i == i)


@triton.jit
def same_segment(i, j, a, b, n, table):
    """Keys of the query's own segment; -1 belongs to none."""
    return (a == b) & (b >= 0)


@triton.jit
def adjacent(i, j, a, b, n, table):
    """Keys of a segment that the query's segment is shown: table[a, b] of n[0] segments, int8."""
    known = (a >= 0) & (a < n[0]) & (b >= 0) & (b < n[0])
    return tl.load(table + a * n[0] + b, mask=known, other=0) != 0


@triton.jit
def shown(i, j, a, b, ALL: tl.constexpr, ALL_N: tl.constexpr, ANY: tl.constexpr, ANY_N: tl.constexpr, tables):
    """All of ALL, and any of ANY where there is one; ``tables`` are those of ALL, then of ANY."""
    seen = i == i
    for p in tl.static_range(len(ALL)):
        seen = seen & ALL[p](i, j, a, b, ALL_N[p], tables[p])
    if len(ANY) > 0:
        some = i != i
        for p in tl.static_range(len(ANY)):
            some = some | ANY[p](i, j, a, b, ANY_N[p], tables[len(ALL) + p])
        seen = seen & some
    return seen


KINDS: dict[str, Any] = {
    "causal": causal,
    "within": within,
    "near": near,
    "every": every,
    "same_chunk": same_chunk,
    "first": first,
    "same_segment": same_segment,
    "adjacent": adjacent,
}
