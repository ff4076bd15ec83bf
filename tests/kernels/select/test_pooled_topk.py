"""Blocks by their means, held to the formula written densely in float64."""

import pytest
import torch
from probe_kernels.select.pooled_topk import pooled_topk
from selecting import Call, block_any, make_call
from torch import Tensor


def share_by_formula(call: Call, block: int) -> Tensor:
    """Softmax over blocks of the score of mean query and mean key plus mean bias, ``[B, H, I, J]``."""
    one = call.scores
    q, k = one.query.double(), one.key.double().repeat_interleave(one.query.shape[1] // one.key.shape[1], 1)
    shown = call.dense() > -torch.inf
    out = torch.full((*q.shape[:2], -(-q.shape[2] // block), -(-k.shape[2] // block)), -torch.inf).double()
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            rows, keys = (slice(b * block, (b + 1) * block) for b in (i, j))
            s = one.scale * (q[:, :, rows].mean(2) * k[:, :, keys].mean(2)).sum(-1)
            if one.softcap is not None:
                s = one.softcap * torch.tanh(s / one.softcap)
            some = shown[:, :, rows, keys].any(2)
            if one.bias is not None:
                added = one.bias[:, :, rows, keys].double().mean(2)
                s = s + (added * some).sum(-1) / some.sum(-1).clamp_min(1)
            if one.alibi is not None:
                gap = call.layout.query_pos[0, rows].double().mean() - call.layout.key_pos[0, keys]
                s = s - one.alibi * (gap * some).sum(-1) / some.sum(-1).clamp_min(1)
            out[:, :, i, j] = s.masked_fill(~some.any(-1), -torch.inf)
    return torch.softmax(out, -1)


def kept_by_formula(share: Tensor, tau: float) -> Tensor:
    """The fewest blocks that hold tau, found by adding one after the other, with first and diagonal on top."""
    kept = torch.zeros_like(share, dtype=torch.bool)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in share.shape[:3])).tolist():
        held = 0.0
        for j in share[b, h, i].argsort(descending=True, stable=True).tolist():
            if held >= tau:
                break
            kept[b, h, i, j] = True
            held += float(share[b, h, i, j])
        kept[b, h, i, 0] = kept[b, h, i, i + share.shape[3] - share.shape[2]] = True
    return kept


@pytest.mark.parametrize(
    "call",
    [
        make_call(96, kv_heads=2),
        make_call(90, softcap=1.5, alibi=True),
        make_call(70, bias=True, batch=2),
        make_call(96, mask=()),
    ],
    ids=["causal", "softcap and alibi, ragged", "bias", "both ways"],
)
@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_it_keeps_what_the_formula_keeps(call: Call, tau: float) -> None:
    share = share_by_formula(call, 16)
    expected = kept_by_formula(share, tau) & block_any(call.dense() > -torch.inf, 16)
    assert torch.equal(block_any(call.kept(pooled_topk(16, tau)), 16), expected)


@pytest.mark.parametrize("k", [2, 3])
def test_a_count_holds_the_first_and_the_diagonal(k: int) -> None:
    """Each block of queries keeps k blocks, or all that it sees where those are fewer."""
    kept = block_any(make_call(128).kept(pooled_topk(16, k=k)), 16)
    assert torch.equal(kept.sum(-1), torch.arange(1, 9).clamp_max(k).expand(1, 2, 8))
    assert kept[..., 0].all()
    assert kept.diagonal(dim1=2, dim2=3).all()


def test_told_not_to_it_keeps_only_what_scores_say() -> None:
    """With one block and nothing forced, it is the best block of the formula."""
    call = make_call(128)
    kept = block_any(call.kept(pooled_topk(16, k=1, keep_first=False, keep_diagonal=False)), 16)
    best = share_by_formula(call, 16).argmax(-1)
    assert torch.equal(kept, torch.nn.functional.one_hot(best, 8).bool())


def test_bad_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k=3 and tau=0\.5; give a count or a share, not both"):
        pooled_topk(16, tau=0.5, k=3)
    with pytest.raises(ValueError, match=r"tau=0; .*above 0 and up to 1"):
        pooled_topk(16, tau=0)
    with pytest.raises(ValueError, match=r"k=0; .*from 1 up"):
        pooled_topk(16, k=0)
    with pytest.raises(ValueError, match="block=0; it counts the tokens of a block"):
        pooled_topk(0)
