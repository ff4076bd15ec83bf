"""The kernel of everything that belongs to a query: one pass over its keys, in base 2, with running maxima.

A program has BM rows and goes over key tiles of BN. Where ``PACK`` is set its rows are those of all query heads that
share a key head, so that decoding reads each key once. Every statistic is a constexpr flag: what is not wanted is not
compiled. Nothing is accumulated across programs, so answers repeat bit by bit.
"""

import triton
import triton.language as tl

from probe_kernels.fused.predicates import shown

LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def tile_scores(
    q,
    k,
    i,
    j,
    bias,
    slope,
    scale,
    softcap,
    BIAS: tl.constexpr,
    ALIBI: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores of a tile in units of log 2, before the mask."""
    s = tl.dot(q, k, input_precision=PRECISION) * scale
    if SOFTCAP:
        # tanh; libdevice has one, but not in the interpreter
        s = softcap * (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0)
    if BIAS:
        s += bias
    if ALIBI:
        s -= slope * (i - j).to(tl.float32)
    return s * LOG2_E


@triton.jit
def tile(
    start, stop, state, row, keys, strides, scale, softcap,
    ALL: tl.constexpr, ALL_N: tl.constexpr, ANY: tl.constexpr, ANY_N: tl.constexpr,
    FUNCTIONALS: tl.constexpr, NUMBERS: tl.constexpr,
    MASKED: tl.constexpr, VISIT: tl.constexpr, DENSE: tl.constexpr, KEY_REAL: tl.constexpr, SEGMENTS: tl.constexpr,
    BIAS: tl.constexpr, ALIBI: tl.constexpr, SOFTCAP: tl.constexpr, CAREFUL: tl.constexpr,
    WANT_Z: tl.constexpr, ENTROPY: tl.constexpr, SQUARE: tl.constexpr, TOP: tl.constexpr, TABLE: tl.constexpr,
    RANK: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys folded into the state of the rows."""
    m, l, acc, spread, square, top, rank, bad, masses = state
    q, i, a, slope, x, q_row, q_bias, q_dense, q_table, q_far, alive = row
    k_at, v_at, k_pos, k_seg, k_real, tables, y_at, visited = keys
    k_row, k_width, v_row, v_width, bias_key, dense_key, table_row = strides
    at = start + tl.arange(0, BN)
    inside = at < stop
    if VISIT:
        at = tl.load(visited + at, mask=inside, other=-1)
        inside = at >= 0
        at = tl.where(inside, at, 0)
    d = tl.arange(0, BD)
    far = at.to(tl.int64)
    k = tl.load(
        k_at + far[None, :] * k_row + d[:, None] * k_width, mask=inside[None, :] & (d[:, None] < D), other=0.0
    ).to(DOT)
    j = tl.load(k_pos + at, mask=inside, other=0)[None, :]
    bias = 0.0
    if BIAS:
        bias = tl.load(q_bias + far[None, :] * bias_key, mask=q_row & inside[None, :], other=0.0).to(
            tl.float32
        )
    s = tile_scores(q, k, i, j, bias, slope, scale, softcap, BIAS, ALIBI, SOFTCAP, PRECISION)
    if MASKED:
        b = j
        if SEGMENTS:
            b = tl.load(k_seg + at, mask=inside, other=-1)[None, :]
        seen = shown(i, j, a, b, ALL, ALL_N, ANY, ANY_N, tables) & inside[None, :] & q_row
        if KEY_REAL:
            seen = seen & (tl.load(k_real + at, mask=inside, other=0) != 0)[None, :]
        if DENSE:
            seen = seen & (
                tl.load(q_dense + far[None, :] * dense_key, mask=q_row & inside[None, :], other=0) != 0
            )
        s = tl.where(seen, s, float("-inf"))
    best = tl.max(s, 1)
    new = tl.maximum(m, best)
    # The block's own maximum makes the table exact however far the row's lies above it.
    pivot = best if TABLE else new
    pivot = tl.where(pivot == float("-inf"), 0.0, pivot)
    whole = tl.where(new == float("-inf"), 0.0, new)
    t = s - pivot[:, None]
    p = tl.exp2(t)
    mass = tl.sum(p, 1)
    alpha = tl.exp2(m - whole)
    beta = mass * 0.0 + 1.0
    if TABLE:
        number = tl.zeros_like(q_far) + start // BN
        tl.store(q_table + number * table_row, (pivot + tl.log2(mass)) * LN_2, mask=alive)
        beta = tl.where(mass > 0, tl.exp2(pivot - whole), 0.0)
    if ENTROPY:
        own = tl.sum(tl.where(p > 0, p * t, 0.0), 1)
        if TABLE:
            own = beta * (own + (pivot - whole) * mass)
        moved = tl.where(l > 0, (m - whole) * l, 0.0)
        spread = alpha * (spread + moved) + own
    if SQUARE:
        square = alpha * alpha * square + beta * beta * tl.sum(p * p, 1)
    if TOP:
        first = tl.argmax(s, 1, tie_break_left=True)
        where = start + first
        if VISIT:
            where = tl.load(visited + where, mask=best > float("-inf"), other=-1)
        top = tl.where(best > m, where, top)
    l = alpha * l + beta * mass
    if TABLE and (WANT_Z or len(FUNCTIONALS) > 0):
        p = p * beta[:, None]
    if len(FUNCTIONALS) > 0:
        n = i
        if RANK:
            one = (s > float("-inf")).to(tl.int32)
            n = rank[:, None] + tl.cumsum(one, 1)
            rank = rank + tl.sum(one, 1)
        added = ()
        for f in tl.static_range(len(FUNCTIONALS)):
            y = tl.load(y_at[f] + at, mask=inside, other=-1)[None, :]
            weight = FUNCTIONALS[f](i, j, x[f], y, n, NUMBERS[f])
            added = added + (alpha * masses[f] + tl.sum(p * weight, 1),)
        masses = added
    if WANT_Z:
        dv = tl.arange(0, BDV)
        v = tl.load(
            v_at + far[:, None] * v_row + dv[None, :] * v_width,
            mask=inside[:, None] & (dv[None, :] < DV),
            other=0.0,
        )
        if CAREFUL:
            # Values that are no numbers reach the rows that see them, and no others: 0 · NaN would be NaN.
            ill = (v.to(tl.float32) - v.to(tl.float32)) != 0.0
            bad = alpha * bad + tl.sum(p * (tl.max(ill.to(tl.int32), 1) > 0).to(tl.float32)[None, :], 1)
            v = tl.where(ill, 0.0, v)
        acc = acc * alpha[:, None] + tl.dot(p.to(DOT), v.to(DOT), input_precision=PRECISION)
    return new, l, acc, spread, square, top, rank, bad, masses


@triton.jit
def attend_rows(
    scores, layout, ranges, out, strides, sizes, tables, x_at, y_at,
    scale, softcap, n_query, n_key, first_row, n_rows, n_heads, group, splits,
    ALL: tl.constexpr, ALL_N: tl.constexpr, ANY: tl.constexpr, ANY_N: tl.constexpr,
    FUNCTIONALS: tl.constexpr, NUMBERS: tl.constexpr,
    VISIT: tl.constexpr, DENSE: tl.constexpr, KEY_REAL: tl.constexpr, SEGMENTS: tl.constexpr,
    BIAS: tl.constexpr, ALIBI: tl.constexpr, SOFTCAP: tl.constexpr, CAREFUL: tl.constexpr,
    WANT_Z: tl.constexpr, ENTROPY: tl.constexpr, SQUARE: tl.constexpr, TOP: tl.constexpr, TABLE: tl.constexpr,
    RANK: tl.constexpr, PACK: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of one batch row and head (``PACK``: of one key head); see `probe_kernels.fused.launch` for the arguments."""
    q_at, k_at, v_at, bias_at, slopes, dense_at = scores
    q_pos, k_pos, q_seg, k_seg, k_real = layout
    low, full_low, full_high, high, visited = ranges
    z_at, lse_at, entropy_at, square_at, top_p_at, top_at, table_at, masses_at = out
    q_s, k_s, v_s, bias_s, dense_s, pos_s, visit_s = strides
    table_blocks, split_plane, plane = sizes
    part = tl.program_id(0)
    block = part // splits
    share = part % splits
    batch = (tl.program_id(1) // n_heads).to(tl.int64)
    head0 = tl.program_id(1) % n_heads  # PACK: n_heads is that of the keys
    m_index = block * BM + tl.arange(0, BM)
    if PACK:
        r = first_row + m_index % n_rows
        head = head0 * group + m_index // n_rows
        alive = m_index < n_rows * group
        key_head = head0.to(tl.int64)
        all_heads = n_heads * group
    else:
        r = first_row + m_index
        head = head0 + 0 * m_index
        alive = m_index < n_rows
        key_head = (head0 // group).to(tl.int64)
        all_heads = n_heads
    head = tl.where(alive, head, 0).to(tl.int64)
    r = tl.where(alive, r, 0)
    far = r.to(tl.int64)
    d = tl.arange(0, BD)
    q = tl.load(
        q_at + batch * q_s[0] + (head * q_s[1] + far * q_s[2])[:, None] + d[None, :] * q_s[3],
        mask=alive[:, None] & (d[None, :] < D), other=0.0,
    ).to(DOT)  # fmt: skip
    i = tl.load(q_pos + batch * pos_s[0] + far, mask=alive, other=0)[:, None]
    a = i
    if SEGMENTS:
        a = tl.load(q_seg + batch * pos_s[2] + far, mask=alive, other=-1)[:, None]
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head, mask=alive, other=0.0)[:, None]
    x = ()
    y = ()
    masses = ()
    for f in tl.static_range(len(FUNCTIONALS)):
        x = x + (tl.load(x_at[f] + batch * pos_s[5 + 2 * f] + far, mask=alive, other=-2)[:, None],)
        y = y + (y_at[f] + batch * pos_s[6 + 2 * f],)
        masses = masses + (tl.zeros([BM], tl.float32),)
    zero = tl.zeros([BM], tl.float32)
    none = tl.zeros([BM], tl.int32)
    acc = tl.zeros([BM, BDV], tl.float32)
    state = (zero + float("-inf"), zero, acc, zero, zero, none - 1, none, zero, masses)
    q_bias = q_at
    if BIAS:
        q_bias = bias_at + batch * bias_s[0] + (head * bias_s[1] + far * bias_s[2])[:, None]
    q_dense = q_pos
    if DENSE:
        q_dense = dense_at + batch * dense_s[0] + ((far - first_row) * dense_s[1])[:, None]
    q_table = lse_at
    place = (batch * all_heads + head) * n_query + far
    if TABLE:
        q_table = table_at + (batch * all_heads + head) * table_blocks * n_query + far
    row = (q, i, a, slope, x, alive[:, None], q_bias, q_dense, q_table, far, alive)
    visits = visited
    if VISIT:
        visits = (
            visited
            + batch * visit_s[0]
            + head0.to(tl.int64) * visit_s[1]
            + ((first_row + block * BM) // visit_s[3]).to(tl.int64) * visit_s[2]
        )
    keys = (
        k_at + batch * k_s[0] + key_head * k_s[1],
        v_at + batch * v_s[0] + key_head * v_s[1],
        k_pos + batch * pos_s[1],
        k_seg + batch * pos_s[3],
        k_real + batch * pos_s[4],
        tables, y, visits,
    )  # fmt: skip
    steps = (k_s[2], k_s[3], v_s[2], v_s[3], bias_s[3], dense_s[2], n_query)
    lo = tl.load(low + block)
    hi = tl.load(high + block)
    f_lo = tl.load(full_low + block)
    f_hi = tl.load(full_high + block)
    if splits > 1:
        n_tiles = tl.cdiv(hi - lo, BN)
        each = tl.cdiv(n_tiles, splits) * BN
        lo = lo + share * each
        hi = tl.minimum(hi, lo + each)
        f_lo = tl.minimum(tl.maximum(f_lo, lo), tl.maximum(hi, lo))
        f_hi = tl.maximum(tl.minimum(f_hi, hi), f_lo)
    for start in tl.range(lo, f_lo, BN):
        state = tile(
            start, hi, state, row, keys, steps, scale, softcap, ALL, ALL_N, ANY, ANY_N, FUNCTIONALS, NUMBERS,
            True, VISIT, DENSE, KEY_REAL, SEGMENTS, BIAS, ALIBI, SOFTCAP, CAREFUL, WANT_Z, ENTROPY, SQUARE, TOP,
            TABLE, RANK, D, DV, BD, BDV, BN, DOT, PRECISION,
        )  # fmt: skip
    for start in tl.range(f_lo, f_hi, BN):
        state = tile(
            start, hi, state, row, keys, steps, scale, softcap, ALL, ALL_N, ANY, ANY_N, FUNCTIONALS, NUMBERS,
            False, VISIT, DENSE, KEY_REAL, SEGMENTS, BIAS, ALIBI, SOFTCAP, CAREFUL, WANT_Z, ENTROPY, SQUARE, TOP,
            TABLE, RANK, D, DV, BD, BDV, BN, DOT, PRECISION,
        )  # fmt: skip
    for start in tl.range(tl.maximum(f_hi, lo), hi, BN):
        state = tile(
            start, hi, state, row, keys, steps, scale, softcap, ALL, ALL_N, ANY, ANY_N, FUNCTIONALS, NUMBERS,
            True, VISIT, DENSE, KEY_REAL, SEGMENTS, BIAS, ALIBI, SOFTCAP, CAREFUL, WANT_Z, ENTROPY, SQUARE, TOP,
            TABLE, RANK, D, DV, BD, BDV, BN, DOT, PRECISION,
        )  # fmt: skip
    m, l, acc, spread, square, top, rank, bad, masses = state
    some = l > 0
    inverse = tl.where(some, 1.0 / l, 0.0)
    place = place + share.to(tl.int64) * split_plane
    tl.store(lse_at + place, tl.where(some, (m + tl.log2(l)) * LN_2, float("-inf")), mask=alive)
    if ENTROPY:
        h = (tl.log2(l) - spread * inverse) * LN_2
        tl.store(entropy_at + place, tl.where(some, tl.maximum(h, 0.0), 0.0), mask=alive)
    if SQUARE:
        tl.store(square_at + place, square * inverse * inverse, mask=alive)
    if TOP:
        tl.store(top_p_at + place, inverse, mask=alive)
        tl.store(top_at + place, top, mask=alive)
    for f in tl.static_range(len(FUNCTIONALS)):
        tl.store(masses_at + f * plane + place, masses[f] * inverse, mask=alive)
    if WANT_Z:
        z = acc * inverse[:, None]
        if CAREFUL:
            z = tl.where((bad > 0)[:, None], float("nan"), z)
        dv = tl.arange(0, BDV)
        tl.store(
            z_at + place[:, None] * DV + dv[None, :],
            z.to(z_at.dtype.element_ty), mask=alive[:, None] & (dv[None, :] < DV),
        )  # fmt: skip
