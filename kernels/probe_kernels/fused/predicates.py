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
def between_cells(i, j, a, b, n, table):
    """Keys of a cell that the query's cell is shown: table[cell, cell] of n[0] cells, parted at n[1], n[2], …, int8."""
    row = tl.zeros_like(i)
    column = tl.zeros_like(j)
    for x in tl.static_range(n[0] - 1):
        row += (i >= n[1 + x]).to(i.dtype)
        column += (j >= n[1 + x]).to(j.dtype)
    return tl.load(table + row * n[0] + column) != 0


@triton.jit
def at_every(i, j, a, b, n, table):
    """Keys at positions that are a multiple of n[0]."""
    return (j % n[0] == 0) & (i == i)


@triton.jit
def power_of_two(i, j, a, b, n, table):
    """Keys fewer than n[1] blocks of n[0] positions away, or a power of two of them."""
    far = tl.abs(floored(i, n[0]) - floored(j, n[0]))
    return (far < n[1]) | ((far & (far - 1)) == 0)


@triton.jit
def near_nd(i, j, a, b, n, table):
    """Keys in the neighbourhood on a grid: n = extra, axes, then length, window, dilation, stride, causal of each."""
    size = 1
    for x in tl.static_range(n[1]):
        size = size * n[2 + 5 * x]
    i = i - n[0]
    j = j - n[0]
    outside = (i < 0) | (i >= size) | (j < 0) | (j >= size)
    i = tl.minimum(tl.maximum(i, 0), size - 1)
    j = tl.minimum(tl.maximum(j, 0), size - 1)
    seen = outside == outside
    for y in tl.static_range(n[1]):
        x: tl.constexpr = n[1] - 1 - y
        seen = seen & _near(
            i % n[2 + 5 * x],
            j % n[2 + 5 * x],
            n[2 + 5 * x],
            n[3 + 5 * x],
            n[4 + 5 * x],
            n[5 + 5 * x],
            n[6 + 5 * x],
        )
        i = i // n[2 + 5 * x]
        j = j // n[2 + 5 * x]
    return seen | outside


@triton.jit
def _near(
    i, j, LENGTH: tl.constexpr, WINDOW: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """One axis of `near_nd`."""
    group = i % DILATION
    same = j % DILATION == group
    i = i // DILATION
    j = j // DILATION
    length = (LENGTH - group + DILATION - 1) // DILATION
    leader = i // STRIDE * STRIDE
    if CAUSAL:
        leader = tl.minimum(leader + STRIDE - 1, length - 1)
        inside = (j <= i) & (leader - j < WINDOW)
    else:
        window = tl.minimum(length, WINDOW)
        left = window // 2
        centre = tl.minimum(leader + STRIDE // 2, length - 1)
        start = tl.minimum(tl.maximum(centre, left), length - window + left) - left
        inside = (j >= start) & (j < start + window)
    return inside & same


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
    "at_every": at_every,
    "between_cells": between_cells,
    "power_of_two": power_of_two,
    "near_nd": near_nd,
}
