"""The kernel of everything that belongs to a key: sums over the queries that see it, once each row's lse is known.

A program has BN keys and goes over tiles of BM queries. p = exp(s - lse) needs no maxima and no second softmax, and a
program owns its keys: no atomics, the same bits every time. Tiles stand on their side, keys as rows: a sum over queries
then stays among the four lanes that share a row, and crosses no warps.
"""

import triton
import triton.language as tl

from probe_kernels.fused.predicates import shown
from probe_kernels.fused.rows import LOG2_E, tile_scores


@triton.jit
def attend_columns(
    scores, layout, ranges, lse_at, out_at, strides, tables, x_at, y_at,
    scale, softcap, n_query, n_key, first_row, n_rows, n_heads, group, plane,
    ALL: tl.constexpr, ALL_N: tl.constexpr, ANY: tl.constexpr, ANY_N: tl.constexpr,
    FUNCTIONALS: tl.constexpr, NUMBERS: tl.constexpr,
    DENSE: tl.constexpr, KEY_REAL: tl.constexpr, QUERY_REAL: tl.constexpr, SEGMENTS: tl.constexpr,
    IN_ORDER: tl.constexpr,
    BIAS: tl.constexpr, ALIBI: tl.constexpr, SOFTCAP: tl.constexpr,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys of one batch row and query head; see `probe_kernels.fused.launch` for the arguments."""
    q_at, k_at, bias_at, slopes, dense_at = scores
    q_pos, k_pos, q_seg, k_seg, k_real, q_real = layout
    low, high = ranges
    q_s, k_s, bias_s, dense_s, pos_s = strides
    block = tl.program_id(0)
    batch = (tl.program_id(1) // n_heads).to(tl.int64)
    head = (tl.program_id(1) % n_heads).to(tl.int64)
    first_key = batch * 0 + block * BN
    at = tl.arange(0, BN)
    inside = at < n_key - block * BN
    d = tl.arange(0, BD)
    k = tl.load(
        k_at + (batch * k_s[0] + (head // group) * k_s[1] + first_key * k_s[2])
        + (at[:, None] * k_s[2] + d[None, :] * k_s[3]),
        mask=inside[:, None] & (d[None, :] < D), other=0.0,
    ).to(DOT)  # fmt: skip
    j = tl.load(k_pos + (batch * pos_s[1] + first_key) + at, mask=inside, other=0)[:, None]
    b = j
    if SEGMENTS:
        b = tl.load(k_seg + (batch * pos_s[3] + first_key) + at, mask=inside, other=-1)[:, None]
    usable = inside
    if KEY_REAL:
        usable = usable & (tl.load(k_real + (batch * pos_s[4] + first_key) + at, mask=inside, other=0) != 0)
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head)
    y = ()
    sums = ()
    for f in tl.static_range(len(FUNCTIONALS)):
        y = y + (
            tl.load(y_at[f] + (batch * pos_s[7 + 2 * f] + first_key) + at, mask=inside, other=-1)[:, None],
        )
        sums = sums + (tl.zeros([BN], tl.float32),)
    r = tl.arange(0, BM)
    for start in tl.range(tl.load(low + block), tl.load(high + block), BM):
        begin = batch * 0 + start
        counted = (r >= first_row - start) & (r < first_row + n_rows - start)
        if QUERY_REAL:
            counted = counted & (tl.load(q_real + (batch * pos_s[5] + begin) + r, mask=counted, other=0) != 0)
        q = tl.load(
            q_at + (batch * q_s[0] + head * q_s[1] + begin * q_s[2]) + (r[None, :] * q_s[2] + d[:, None] * q_s[3]),
            mask=counted[None, :] & (d[:, None] < D), other=0.0,
        )  # fmt: skip
        i = tl.load(q_pos + (batch * pos_s[0] + begin) + r, mask=counted, other=0)[None, :]
        a = i
        if SEGMENTS:
            a = tl.load(q_seg + (batch * pos_s[2] + begin) + r, mask=counted, other=-1)[None, :]
        bias = 0.0
        if BIAS:
            bias = tl.load(
                bias_at + (batch * bias_s[0] + head * bias_s[1] + begin * bias_s[2] + first_key * bias_s[3])
                + (r[None, :] * bias_s[2] + at[:, None] * bias_s[3]),
                mask=counted[None, :] & inside[:, None], other=0.0,
            ).to(tl.float32)  # fmt: skip
        s, unit = tile_scores(
            k, q.to(DOT), i, j, bias, slope, scale, softcap, BIAS, ALIBI, SOFTCAP, PRECISION
        )
        seen = shown(i, j, a, b, ALL, ALL_N, ANY, ANY_N, tables) & usable[:, None]
        if DENSE:
            seen = seen & (tl.load(
                dense_at + (batch * dense_s[0] + (begin - first_row) * dense_s[1] + first_key * dense_s[2])
                + (r[None, :] * dense_s[1] + at[:, None] * dense_s[2]),
                mask=counted[None, :] & inside[:, None], other=0,
            ) != 0)  # fmt: skip
        lse = tl.load(
            lse_at + ((batch * n_heads + head) * n_query + begin) + r, mask=counted, other=float("-inf")
        )
        # Rows that are not counted, or see nothing, have no mass anywhere.
        lse = tl.where(lse == float("-inf"), float("inf"), lse * LOG2_E)
        p = tl.where(seen, tl.exp2(s * unit - lse[None, :]), 0.0)
        added = ()
        for f in tl.static_range(len(FUNCTIONALS)):
            x = tl.load(x_at[f] + (batch * pos_s[6 + 2 * f] + begin) + r, mask=counted, other=-2)[None, :]
            added = added + (sums[f] + tl.sum(p * FUNCTIONALS[f](i, j, x, y[f], i, NUMBERS[f]), 1),)
        sums = added
    place = (batch * n_heads + head) * n_key + first_key
    for f in tl.static_range(len(FUNCTIONALS)):
        tl.store(out_at + (f * tl.cast(plane, tl.int64) + place) + at, sums[f], mask=inside)
