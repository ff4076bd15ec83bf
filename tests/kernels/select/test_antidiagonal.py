"""Sampled antidiagonals, held to the formula written pair by pair in float64."""

import pytest
import torch
from probe_kernels.select.antidiagonal import antidiagonal, antidiagonal_share
from probe_kernels.select.sight import Sight
from probe_kernels.testing import assert_close
from selecting import Call, block_any, make_call
from torch import Tensor


def share_by_formula(call: Call, block: int, stride: int) -> Tensor:
    """Block sums of the softmax over groups of the mean score on antidiagonals, whole blocks of queries only."""
    s = call.dense()
    batch, heads, n, n_key = s.shape
    groups = torch.full((batch, heads, n // stride, -(-n_key // stride)), -torch.inf).double()
    for a in range(groups.shape[2]):
        for c in range(groups.shape[3]):
            pairs = [
                s[:, :, a * stride + stride - 1 - t, c * stride + t]
                for t in range(stride)
                if c * stride + t < n_key
            ]
            line = torch.stack(pairs, -1)
            shown = line > -torch.inf
            mean = line.masked_fill(~shown, 0).sum(-1) / shown.sum(-1)
            groups[:, :, a, c] = mean.masked_fill(~shown.any(-1), -torch.inf)
    p = torch.softmax(groups, -1)
    per = block // stride
    p = torch.nn.functional.pad(p, (0, -p.shape[3] % per))
    p = p.reshape(batch, heads, n // block, per, -1, per).sum((3, 5))
    return p / p.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "call",
    [make_call(64, kv_heads=2), make_call(48, softcap=1.0, alibi=True, bias=True), make_call(64, mask=())],
    ids=["causal", "softcap, alibi and bias", "both ways"],
)
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_shares_are_those_of_the_formula(call: Call, stride: int) -> None:
    found = antidiagonal_share(Sight(call.scores, call.layout), 16, stride)
    assert_close("share", found, share_by_formula(call, 16, stride))


def test_it_keeps_the_fewest_blocks_that_hold_tau() -> None:
    """What is kept holds tau; without the least of it, it would not (first and diagonal are not forced here)."""
    call = make_call(128)
    share = share_by_formula(call, 16, 4)
    kept = block_any(call.kept(antidiagonal(16, 4, 0.8, keep_first=False, keep_diagonal=False)), 16)
    held = (share * kept).sum(-1)
    least = share.masked_fill(~kept, 2).amin(-1)
    assert (held >= 0.8 - 1e-6).all()
    assert (held - least < 0.8).all()


def test_a_short_last_block_is_sampled_more_densely() -> None:
    """One query in the last block has groups of one: its estimate is its exact mass."""
    call = make_call(65)
    found = antidiagonal_share(Sight(call.scores, call.layout), 16, 16)[:, :, -1]
    exact = torch.nn.functional.pad(call.probs()[:, :, -1], (0, 15)).reshape(1, 2, 5, 16).sum(-1)
    assert_close("share", found, exact)


def test_an_even_stride_meets_the_odd_diagonals_only() -> None:
    """The pairs of an antidiagonal are an odd number of tokens apart where groups are even: a known blind spot."""
    found = {}
    for back in (47, 48):
        call = make_call(128, plant="slash", back=back)
        assert call.planted is not None
        for stride in (1, 4):
            kept = call.kept(antidiagonal(8, stride, 0.5)) & call.planted
            found[back, stride] = float(kept.sum((2, 3)).div(call.planted.sum()).mean())
    assert found[48, 1] > 0.9
    assert (
        min(found[47, 1], found[47, 4]) > 0.65
    )  # of the two blocks that an uneven diagonal crosses, the greater part
    assert found[48, 4] < 0.5


def test_a_stride_that_does_not_divide_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"block=16 and stride=5; .*divides the block"):
        antidiagonal(16, 5)
    with pytest.raises(ValueError, match="stride=0"):
        antidiagonal(16, 0)
    with pytest.raises(ValueError, match=r"tau=1\.5"):
        antidiagonal(16, 4, 1.5)
