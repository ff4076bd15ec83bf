"""Stripes within theta of an anchor, held to the formula written row by row in float64."""

from itertools import pairwise

import pytest
import torch
from probe_kernels.select.anchor_stripe import AnchorStripe, anchor_stripe
from selecting import Call, make_call
from torch import Tensor


def kept_by_formula(call: Call, pattern: AnchorStripe) -> Tensor:
    """Bool ``[B, H, Q, K]``, for a prefill of whole blocks."""
    s, one = call.dense(), call.scores
    q, k = one.query.double(), one.key.double().repeat_interleave(one.query.shape[1] // one.key.shape[1], 1)
    n, block = q.shape[2], pattern.block
    rows = block * pattern.steps(n)
    kept = torch.zeros_like(s, dtype=torch.bool)
    for start in range(0, n, rows):
        mine = slice(start, start + rows)
        for b in range(start, min(start + rows, n), block):
            part = slice(b, b + block)
            region = torch.cat((s[:, :, part, :block], s[:, :, part, mine]), -1)
            anchor = region.amax(-1).mean(-1)
            mean = one.scale * torch.einsum("bhd,bhkd->bhk", q[:, :, part].mean(2), k)
            if one.softcap is not None:
                mean = one.softcap * torch.tanh(mean / one.softcap)
            if one.bias is not None:
                mean = mean + one.bias[:, :, part].double().mean(2)
            if one.alibi is not None:
                gap = call.layout.query_pos[0, part].double().mean() - call.layout.key_pos[0]
                mean = mean - one.alibi[:, None] * gap
            kept[:, :, mine] |= (mean + pattern.theta >= anchor[..., None])[:, :, None]
        if pattern.keep_first:
            kept[:, :, mine, :block] = True
        if pattern.keep_diagonal:
            kept[:, :, mine, mine] = True
    return kept & (s > -torch.inf)


@pytest.mark.parametrize(
    "call",
    [
        make_call(128, kv_heads=2),
        make_call(128, softcap=2.0, alibi=True, bias=True, batch=2),
        make_call(96, mask=()),
    ],
    ids=["causal", "softcap, alibi and bias", "both ways"],
)
@pytest.mark.parametrize("theta", [1.0, 1.5])
@pytest.mark.parametrize("forced", [True, False])
def test_it_keeps_what_the_formula_keeps(call: Call, theta: float, forced: bool) -> None:
    pattern = anchor_stripe(theta, 8, 16, keep_first=forced, keep_diagonal=forced)
    kept = call.kept(pattern)
    assert torch.equal(kept, kept_by_formula(call, pattern))
    assert 0.02 < float(kept.double().mean()) < 0.9


def test_a_super_block_is_a_quarter_of_a_short_call() -> None:
    """Sixteen blocks of 128 from 8192 tokens on; below, as many as make four super-blocks; at least one."""
    pattern = anchor_stripe()
    assert [pattern.steps(n) for n in (100, 600, 2048, 4096, 8192, 100_000)] == [1, 1, 4, 8, 16, 16]


def test_each_key_is_listed_once() -> None:
    """A key that is first, near and hit at once is one key of the list."""
    visit = make_call(128).select(anchor_stripe(50.0, 8)).visit
    assert visit is not None
    real = visit.index[visit.index >= 0]
    assert torch.equal(visit.kept(slice(0, visit.index.shape[2]), 128).sum(), torch.tensor(real.numel()))


def test_theta_is_read_against_the_spread_of_the_scores() -> None:
    """More theta keeps a superset; beyond the spread, everything."""
    call = make_call(128)
    kept = [call.kept(anchor_stripe(theta, 8)) for theta in (0.0, 0.5, 1.0, 3.0, 100.0)]
    for less, more in pairwise(kept):
        assert not (less & ~more).any()
    assert torch.equal(kept[-1], call.dense() > -torch.inf)


def test_bad_numbers_are_refused() -> None:
    for theta in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"theta=.*from 0 up"):
            anchor_stripe(theta)
    with pytest.raises(ValueError, match="step=0"):
        anchor_stripe(step=0)
