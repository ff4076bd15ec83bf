"""The kernel of everything that belongs to a query: one pass over its keys, in base 2, with running maxima.

A program has BM rows and goes over key tiles of BN. Where ``PACK`` is set its rows are those of all query heads that
share a key head, so that decoding reads each key once. Every statistic is a constexpr flag: what is not wanted is not
compiled. Nothing is accumulated across programs, so answers repeat bit by bit.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from probe_kernels.fused.predicates import shown

LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)
HIDDEN = tl.constexpr(-1e30)  # a score at or below it counts as hidden, as in `probe_kernels.chunks`


@triton.jit
def tile_scores(
    left, right, i, j, bias, slope, scale, softcap,
    BIAS: tl.constexpr, ALIBI: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of a tile before the mask, and the positive number that turns them into units of log 2.

    Where nothing stands between the product and the softmax, scale and log2 e are one number, and a subtraction of the
    maximum takes it along in the same instruction.
    """
    s = tl.dot(left, right, input_precision=PRECISION)
    if SOFTCAP or BIAS or ALIBI:
        s = s * scale
        if SOFTCAP:
            # tanh; libdevice has one, but not in the interpreter
            s = softcap * (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0)
        if BIAS:
            s += bias
            s = tl.where(s <= HIDDEN, float("-inf"), s)
        if ALIBI:
            s -= slope * (i - j).to(tl.float32)
        unit = scale * 0.0 + LOG2_E
    else:
        unit = scale * LOG2_E
    return s, unit


@triton.jit
def quick_log2(x, DOT: tl.constexpr):
    """log2 to 2^-22, in one instruction; float32 products also ask for a float32 logarithm."""
    if tl.float32 == DOT:  # the interpreter too
        return tl.log2(x)
    return libdevice.fast_log2f(x)


@triton.jit
def tile(
    start, stop, state, row, keys, strides, scale, softcap,
    ALL: tl.constexpr, ALL_N: tl.constexpr, ANY: tl.constexpr, ANY_N: tl.constexpr,
    FUNCTIONALS: tl.constexpr, NUMBERS: tl.constexpr, GROUPS: tl.constexpr,
    MASKED: tl.constexpr, VISIT: tl.constexpr, DENSE: tl.constexpr, KEY_REAL: tl.constexpr, SEGMENTS: tl.constexpr,
    IN_ORDER: tl.constexpr,
    BIAS: tl.constexpr, ALIBI: tl.constexpr, SOFTCAP: tl.constexpr, CAREFUL: tl.constexpr,
    WANT_Z: tl.constexpr, ENTROPY: tl.constexpr, SQUARE: tl.constexpr, TOP: tl.constexpr, TABLE: tl.constexpr,
    RANK: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys folded into the state of the rows. Not ``MASKED``: every key is there and seen by every row."""
    m, total, acc, spread, square, top, rank, bad, masses = state
    origin, q, i, a, slope, x, alive, near, near_bias, near_dense = row
    (
        k_at,
        v_at,
        k_pos,
        k_first,
        k_seg,
        k_real,
        bias_at,
        dense_at,
        table_at,
        tables,
        y_at,
        group_at,
        visited,
    ) = keys
    k_row, k_width, v_row, v_width, bias_key, dense_key, table_row = strides
    # A tile begins at a 64-bit address; inside it 32 bits are enough, and cost half the registers.
    start = tl.multiple_of(start, BN)
    column = tl.arange(0, BN)
    d = tl.arange(0, BD)
    dv = tl.arange(0, BDV)
    if VISIT:
        at = tl.load(visited + start + column, mask=start + column < stop, other=-1)
        inside = at >= 0
        at = tl.where(inside, at, 0).to(tl.int64)
        begin = origin
    else:
        at = column
        inside = start + column < stop
        begin = origin + start
    k_tile = k_at + begin * k_row + (at[None, :] * k_row + d[:, None] * k_width)
    if MASKED:
        k = tl.load(k_tile, mask=inside[None, :] & (d[:, None] < D), other=0.0)
    elif D < BD:
        k = tl.load(k_tile, mask=d[:, None] < D, other=0.0)
    else:
        k = tl.load(k_tile)
    if IN_ORDER:
        j = (k_first + (at if VISIT else start + at)).to(tl.int32)[None, :]
    else:
        j = tl.load(k_pos + begin + at, mask=inside, other=0)[None, :]
    bias = 0.0
    if BIAS:
        bias = tl.load(
            bias_at + begin * bias_key + (near_bias[:, None] + at[None, :] * bias_key),
            mask=alive[:, None] & inside[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
    s, unit = tile_scores(q, k.to(DOT), i, j, bias, slope, scale, softcap, BIAS, ALIBI, SOFTCAP, PRECISION)
    if MASKED:
        b = j
        if SEGMENTS:
            b = tl.load(k_seg + begin + at, mask=inside, other=-1)[None, :]
        seen = shown(i, j, a, b, ALL, ALL_N, ANY, ANY_N, tables) & inside[None, :]
        if KEY_REAL:
            seen = seen & (tl.load(k_real + begin + at, mask=inside, other=0) != 0)[None, :]
        if DENSE:
            seen = seen & (tl.load(
                dense_at + begin * dense_key + (near_dense[:, None] + at[None, :] * dense_key),
                mask=alive[:, None] & inside[None, :], other=0,
            ) != 0)  # fmt: skip
        s = tl.where(seen, s, float("-inf"))
    raw = tl.max(s, 1)
    best = raw * unit
    new = tl.maximum(m, best)
    whole = new
    # The block's own maximum makes the table exact however far the row's lies above it.
    pivot = best if TABLE else new
    if MASKED:
        pivot = tl.where(pivot == float("-inf"), 0.0, pivot)
        whole = tl.where(new == float("-inf"), 0.0, new)
    t = s * unit - pivot[:, None]
    p = tl.exp2(t)
    mass = tl.sum(p, 1)
    alpha = tl.exp2(m - whole)
    if TABLE:
        tl.store(
            table_at + (origin + start // BN) * table_row + near,
            (pivot + quick_log2(mass, DOT)) * LN_2,
            mask=alive,
        )
    if ENTROPY:
        own = tl.sum(tl.where(p > 0, p * t, 0.0) if MASKED else p * t, 1)
    if SQUARE:
        own_square = tl.sum(p * p, 1)
    if TOP:
        first = tl.min(tl.where(s == raw[:, None], column[None, :], BN), 1)
        place = start + first
        if VISIT:
            place = tl.load(visited + place, mask=best > float("-inf"), other=-1)
        top = tl.where((best > m) | ((best == m) & (place < top)), place, top)
    if TABLE:
        beta = tl.exp2(pivot - whole)
        if MASKED:
            beta = tl.where(mass > 0, beta, 0.0)
        if WANT_Z or len(FUNCTIONALS) > 0:
            p = p * beta[:, None]
        if ENTROPY:
            own = beta * (own + (pivot - whole) * mass)
        if SQUARE:
            own_square = beta * beta * own_square
        mass = beta * mass
    if ENTROPY:
        moved = tl.where(total > 0, (m - whole) * total, 0.0)
        spread = alpha * (spread + moved) + own
    if SQUARE:
        square = alpha * alpha * square + own_square
    total = alpha * total + mass
    if len(FUNCTIONALS) > 0:
        # Functionals ask for differences of positions only: near 0 they are exact in float32.
        i_near = i - k_first
        j_near = j - k_first
        if IN_ORDER and not VISIT:
            i_near = i_near - start
            j_near = column[None, :]
        n = i
        if RANK:
            one = seen.to(tl.int32)
            n = rank[:, None] + tl.cumsum(one, 1)
            rank = rank + tl.sum(one, 1)
        added = ()
        for f in tl.static_range(len(FUNCTIONALS)):
            if GROUPS[f] and not VISIT:
                # Whether none or all keys of the tile are in the group (0 or 1), or some (2).
                filled = tl.load(group_at[f] + start // BN)
                if filled == 2:
                    y = tl.load(y_at[f] + begin + at, mask=inside, other=-1)[None, :]
                    part = tl.sum(p * FUNCTIONALS[f](i_near, j_near, x[f], y, n, NUMBERS[f]), 1)
                else:
                    part = mass * filled.to(tl.float32)
            else:
                y = tl.load(y_at[f] + begin + at, mask=inside, other=-1)[None, :]
                part = tl.sum(p * FUNCTIONALS[f](i_near, j_near, x[f], y, n, NUMBERS[f]), 1)
            added = added + (alpha * masses[f] + part,)
        masses = added
    if WANT_Z:
        v_tile = v_at + begin * v_row + (at[:, None] * v_row + dv[None, :] * v_width)
        if MASKED:
            v = tl.load(v_tile, mask=inside[:, None] & (dv[None, :] < DV), other=0.0)
        elif DV < BDV:
            v = tl.load(v_tile, mask=dv[None, :] < DV, other=0.0)
        else:
            v = tl.load(v_tile)
        if CAREFUL:
            # Values that are no numbers reach the rows that see them, and no others: 0 · NaN would be NaN.
            ill = (v.to(tl.float32) - v.to(tl.float32)) != 0.0
            met = alive[:, None] & (tl.max(ill.to(tl.int32), 1) > 0)[None, :]
            if MASKED:
                met = met & seen
            bad = tl.maximum(bad, tl.max(met.to(tl.float32), 1))
            v = tl.where(ill, 0.0, v)
        acc = tl.dot(p.to(DOT), v.to(DOT), acc * alpha[:, None], input_precision=PRECISION)
    return new, total, acc, spread, square, top, rank, bad, masses


@triton.jit
def attend_rows(
    scores, layout, ranges, out, strides, sizes, tables, x_at, y_at, group_at,
    scale, softcap, n_query, n_key, first_row, n_rows, n_heads, group, splits,
    ALL: tl.constexpr, ALL_N: tl.constexpr, ANY: tl.constexpr, ANY_N: tl.constexpr,
    FUNCTIONALS: tl.constexpr, NUMBERS: tl.constexpr, GROUPS: tl.constexpr,
    VISIT: tl.constexpr, DENSE: tl.constexpr, KEY_REAL: tl.constexpr, SEGMENTS: tl.constexpr, IN_ORDER: tl.constexpr,
    BIAS: tl.constexpr, ALIBI: tl.constexpr, SOFTCAP: tl.constexpr, CAREFUL: tl.constexpr,
    WANT_Z: tl.constexpr, ENTROPY: tl.constexpr, SQUARE: tl.constexpr, TOP: tl.constexpr, TABLE: tl.constexpr,
    RANK: tl.constexpr, PACK: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of one batch row and head (``PACK``: of one key head); arguments: see `probe_kernels.fused.launch`."""
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
    m_index = tl.arange(0, BM)
    if PACK:
        m_index = block * BM + m_index
        alive = m_index < n_rows * group
        m_index = tl.where(alive, m_index, 0)
        begin = batch * 0 + first_row
        r = m_index % n_rows
        more = (m_index // n_rows).to(tl.int64)
        lead = head0.to(tl.int64) * group
        key_head = head0.to(tl.int64)
        all_heads = n_heads * group
        near = m_index // n_rows * n_query + r
        table_near = m_index // n_rows * n_query * table_blocks + r
    else:
        begin = (block * BM).to(tl.int64) + first_row
        alive = m_index < n_rows - block * BM
        r = tl.where(alive, m_index, 0)
        more = 0
        lead = head0.to(tl.int64)
        key_head = (head0 // group).to(tl.int64)
        all_heads = n_heads
        near = r
        table_near = r
    # `begin` and `lead` are the tile's first row and head, r and `more` what a row lies beyond them.
    d = tl.arange(0, BD)
    q = tl.load(
        q_at + (batch * q_s[0] + lead * q_s[1] + begin * q_s[2])
        + (more * q_s[1] + r * q_s[2])[:, None] + d[None, :] * q_s[3],
        mask=alive[:, None] & (d[None, :] < D), other=0.0,
    ).to(DOT)  # fmt: skip
    i = tl.load(q_pos + (batch * pos_s[0] + begin) + r, mask=alive, other=0)[:, None]
    a = i
    if SEGMENTS:
        a = tl.load(q_seg + (batch * pos_s[2] + begin) + r, mask=alive, other=-1)[:, None]
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + lead + more + 0 * r, mask=alive, other=0.0)[:, None]
    x = ()
    y = ()
    groups = ()
    masses = ()
    for f in tl.static_range(len(FUNCTIONALS)):
        x = x + (tl.load(x_at[f] + (batch * pos_s[5 + 2 * f] + begin) + r, mask=alive, other=-2)[:, None],)
        y = y + (y_at[f] + batch * pos_s[6 + 2 * f],)
        groups = groups + (group_at[f] + tl.where(pos_s[6 + 2 * f] > 0, batch, 0) * tl.cdiv(n_key, BN),)
        masses = masses + (tl.zeros([BM], tl.float32),)
    zero = tl.zeros([BM], tl.float32)
    none = tl.zeros([BM], tl.int32)
    acc = tl.zeros([BM, BDV], tl.float32)
    state = (zero + float("-inf"), zero, acc, zero, zero, none - 1, none, zero, masses)
    row = (batch * 0, q, i, a, slope, x, alive, table_near, more * bias_s[1] + r * bias_s[2], r * dense_s[1])
    visits = visited
    if VISIT:
        visits = (
            visited
            + batch * visit_s[0]
            + head0.to(tl.int64) * visit_s[1]
            + ((first_row + block * BM) // visit_s[3]).to(tl.int64) * visit_s[2]
        )
    base = (batch * all_heads + lead) * n_query + begin
    keys = (
        k_at + (batch * k_s[0] + key_head * k_s[1]),
        v_at + (batch * v_s[0] + key_head * v_s[1]),
        k_pos + batch * pos_s[1],
        tl.load(k_pos + batch * pos_s[1], mask=n_key > 0, other=0),
        k_seg + batch * pos_s[3],
        k_real + batch * pos_s[4],
        bias_at + (batch * bias_s[0] + lead * bias_s[1] + begin * bias_s[2]),
        dense_at + (batch * dense_s[0] + (begin - first_row) * dense_s[1]),
        table_at + ((batch * all_heads + lead) * table_blocks * n_query + begin),
        tables, y, groups, visits,
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
    if VISIT or DENSE or KEY_REAL or BIAS or RANK:
        # Ranks count keys in their order, and with the rest no tile is seen without asking.
        f_lo = lo
        f_hi = lo
    else:
        for start in tl.range(f_lo, f_hi, BN):
            state = tile(
                start, hi, state, row, keys, steps, scale, softcap, ALL, ALL_N, ANY, ANY_N, FUNCTIONALS, NUMBERS,
                GROUPS, False, VISIT, DENSE, KEY_REAL, SEGMENTS, IN_ORDER, BIAS, ALIBI, SOFTCAP, CAREFUL, WANT_Z,
                ENTROPY, SQUARE, TOP, TABLE, RANK, D, DV, BD, BDV, BN, DOT, PRECISION,
            )  # fmt: skip
    # What the mask cuts lies before and behind: one loop for both, so that the tile is compiled twice and not thrice.
    skipped = f_hi - f_lo
    for start in tl.range(lo, hi - skipped, BN):
        state = tile(
            tl.where(start < f_lo, start, start + skipped), hi, state, row, keys, steps, scale, softcap,
            ALL, ALL_N, ANY, ANY_N, FUNCTIONALS, NUMBERS, GROUPS,
            True, VISIT, DENSE, KEY_REAL, SEGMENTS, IN_ORDER, BIAS, ALIBI, SOFTCAP, CAREFUL, WANT_Z, ENTROPY, SQUARE,
            TOP, TABLE, RANK, D, DV, BD, BDV, BN, DOT, PRECISION,
        )  # fmt: skip
    m, total, acc, spread, square, top, _, bad, masses = state
    some = total != 0  # what is no number stays so
    inverse = tl.where(some, 1.0 / total, 0.0)
    place = base + share.to(tl.int64) * split_plane
    tl.store(lse_at + place + near, tl.where(some, (m + tl.log2(total)) * LN_2, float("-inf")), mask=alive)
    if ENTROPY:
        h = (tl.log2(total) - spread * inverse) * LN_2
        tl.store(entropy_at + place + near, tl.where(some, tl.where(h < 0.0, 0.0, h), 0.0), mask=alive)
    if SQUARE:
        tl.store(square_at + place + near, square * inverse * inverse, mask=alive)
    if TOP:
        tl.store(top_p_at + place + near, inverse, mask=alive)
        tl.store(top_at + place + near, top, mask=alive)
    for f in tl.static_range(len(FUNCTIONALS)):
        tl.store(masses_at + (f * tl.cast(plane, tl.int64) + place) + near, masses[f] * inverse, mask=alive)
    if WANT_Z:
        z = acc * inverse[:, None]
        if CAREFUL:
            z = tl.where((bad > 0)[:, None], float("nan"), z)
        dv = tl.arange(0, BDV)
        tl.store(
            z_at + place * DV + (near[:, None] * DV + dv[None, :]),
            z.to(z_at.dtype.element_ty), mask=alive[:, None] & (dv[None, :] < DV),
        )  # fmt: skip
