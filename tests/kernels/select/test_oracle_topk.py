"""The oracle: no selection of as many keys, or as many blocks, holds more mass."""

import pytest
import torch
from probe_kernels.select import Pattern
from probe_kernels.select.antidiagonal import antidiagonal
from probe_kernels.select.oracle_topk import block_share, oracle_topk
from probe_kernels.select.permuted_block import permuted_block
from probe_kernels.select.pooled_topk import pooled_topk
from probe_kernels.select.sight import Sight
from probe_kernels.select.vertical_slash import vertical_slash
from probe_kernels.testing import assert_close
from selecting import Call, block_any, make_call, padded
from torch import Tensor

CALLS = {
    "causal": make_call(96, kv_heads=2, batch=2),
    "softcap, alibi and bias, ragged": make_call(90, softcap=1.5, alibi=True, bias=True),
    "both ways": make_call(64, mask=()),
    "padded": padded(make_call(60), 5, 9),
}


def best_keys(call: Call, k: int) -> Tensor:
    """Bool ``[B, H, Q, K]``: the k largest scores of each row, found by sorting."""
    s = call.dense()
    best = s.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(s, dtype=torch.bool).scatter(3, best, True) & (s > -torch.inf)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("k", [1, 7, 500])
def test_it_keeps_the_best_keys(call: Call, k: int) -> None:
    kept = call.kept(oracle_topk(k, keep_first=False, keep_diagonal=False))
    best = best_keys(call, k)
    if call.layout.query_real is not None:
        best = best & call.layout.query_real[:, None, :, None]
    assert torch.equal(kept, best)


def test_its_own_and_the_first_key_are_among_the_k() -> None:
    kept = make_call(96).kept(oracle_topk(5))
    assert torch.equal(kept.sum(-1), torch.arange(1, 97).clamp_max(5).expand(1, 2, 96))
    assert kept[..., 0].all()
    assert kept.diagonal(dim1=2, dim2=3).all()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_shares_of_blocks_are_those_of_the_dense_pattern(call: Call) -> None:
    p = call.probs()
    real = call.layout.query_real
    if real is not None:
        p = p * real[:, None, :, None]
    p = torch.nn.functional.pad(p, (0, -p.shape[3] % 16)).unflatten(3, (-1, 16)).sum(-1)
    means = [
        rows.sum(2) / (rows.sum(-1) > 0).sum(-1, keepdim=True).clamp_min(1) for rows in p.split(16, dim=2)
    ]
    assert_close("share", block_share(Sight(call.scores, call.layout), 16), torch.stack(means, 2))


LEARNED: list[Pattern] = [
    pooled_topk(16, 0.7, keep_first=False, keep_diagonal=False),
    pooled_topk(16, 0.7),
    antidiagonal(16, 4, 0.8),
    antidiagonal(16, 4, 0.8, keep_first=False),
    vertical_slash(6, 6, 16, 2, 2, 16),
    permuted_block(16, 32, 0.5),
]


@pytest.mark.parametrize("pattern", LEARNED, ids=lambda one: one.name)
@pytest.mark.parametrize("plant", ["none", "stripe", "slash"])
def test_no_selector_holds_more_with_as_many_keys(pattern: Pattern, plant: str) -> None:
    """Row by row: the oracle with the row's own count of keys holds at least the mass."""
    call = make_call(96, kv_heads=2, plant=plant)
    p, kept = call.probs(), call.kept(pattern)
    most = p.sort(-1, descending=True).values.cumsum(-1)
    bound = most.gather(-1, kept.sum(-1, keepdim=True).clamp_min(1) - 1)[..., 0]
    assert ((p * kept).sum(-1) <= bound + 1e-12).all()
    k = int(kept.sum(-1).median())
    rows = kept.sum(-1) == k
    oracle = (p * call.kept(oracle_topk(k, keep_first=False, keep_diagonal=False))).sum(-1)
    assert rows.any()
    assert ((p * kept).sum(-1)[rows] <= oracle[rows] + 1e-6).all()


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("forced", [True, False])
def test_no_choice_of_as_many_blocks_holds_more(k: int, forced: bool) -> None:
    """pooled_topk with k blocks is outdone by the oracle with k blocks, block of queries by block of queries."""
    call = make_call(128, kv_heads=2, seed=2)
    p = call.probs()
    keep = {"keep_first": forced, "keep_diagonal": forced}
    pooled, oracle = (
        call.kept(one) for one in (pooled_topk(16, k=k, **keep), oracle_topk(k, block=16, **keep))
    )
    assert torch.equal(block_any(pooled, 16).sum(-1), block_any(oracle, 16).sum(-1))
    held = [(p * kept).sum(-1).unflatten(2, (-1, 16)).mean(-1) for kept in (pooled, oracle)]
    assert (held[0] <= held[1] + 1e-6).all()
    if not (forced and k == 2):  # the two that are forced leave no choice
        assert (held[0] < held[1] - 1e-3).any()


@pytest.mark.parametrize("tau", [0.3, 0.9, 1.0])
def test_a_share_is_held_on_average_in_each_block_of_queries(tau: float) -> None:
    call = make_call(128)
    kept = call.kept(oracle_topk(tau=tau, block=16, keep_first=False, keep_diagonal=False))
    held = (call.probs() * kept).sum(-1).unflatten(2, (-1, 16)).mean(-1)
    assert (held >= tau - 1e-6).all()
    if tau == 1:
        assert torch.equal(kept, call.dense() > -torch.inf)


def test_defaults_and_refusals() -> None:
    assert oracle_topk().name == "oracle_topk:k=64,block=1"
    assert oracle_topk(tau=0.9).name == "oracle_topk:tau=0.9,block=64"
    with pytest.raises(ValueError, match=r"tau=0\.9 and block=1; .*give k, or a block of at least 2"):
        oracle_topk(tau=0.9, block=1)
    with pytest.raises(ValueError, match=r"k=3 and tau=0\.9"):
        oracle_topk(3, 0.9)
    with pytest.raises(ValueError, match=r"k=1\.5"):
        oracle_topk(1.5)  # type: ignore[arg-type]


def test_of_equal_keys_the_first_are_kept() -> None:
    """All keys alike: the choice is the same on every device, and of the keys that are seen."""
    call = make_call(64)
    call.scores.key[:] = 1.0
    kept = call.kept(oracle_topk(5, keep_first=False, keep_diagonal=False))
    expected = torch.ones(64, 64).tril().bool()
    expected[:, 5:] = False
    assert torch.equal(kept, expected.expand_as(kept))
