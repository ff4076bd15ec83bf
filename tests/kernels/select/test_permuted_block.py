"""Blocks of sorted keys: the order, the choice, and what the order must not change."""

from dataclasses import replace

import pytest
import torch
from probe_kernels.select.permuted_block import PermutedBlock, permuted_block
from probe_kernels.select.pooled_topk import pooled_topk
from selecting import Call, make_call
from torch import Tensor


def kept_by_formula(call: Call, pattern: PermutedBlock) -> tuple[Tensor, Tensor]:
    """Kept pairs and order of a causal prefill, head by head."""
    one, p, s = call.scores, call.probs(), call.dense()
    group = one.query.shape[1] // one.key.shape[1]
    n, block, segment = one.key.shape[2], pattern.block, pattern.segment
    kept, orders = torch.zeros_like(s, dtype=torch.bool), []
    for b, h in torch.cartesian_prod(*(torch.arange(x) for x in s.shape[:2])).tolist():
        weight = p[b, h, -block:].mean(0)
        order: list[int] = []
        for start in range(0, n, segment):
            order += sorted(range(start, min(start + segment, n)), key=lambda j: -float(weight[j]))
        q, k = one.query[b, h].double(), one.key[b, h // group].double()[order]
        parts = [order[at : at + block] for at in range(0, n, block)]
        for start in range(0, n, block):
            rows = slice(start, start + block)
            scores = [
                one.scale * float(q[rows].mean(0) @ k[at * block : (at + 1) * block].mean(0))
                if bool((s[b, h, rows][:, keys] > -torch.inf).any())
                else -torch.inf
                for at, keys in enumerate(parts)
            ]
            share = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0)
            held = 0.0
            for at in share.argsort(descending=True).tolist():
                if held < pattern.tau and scores[at] > -torch.inf:
                    kept[b, h, rows, parts[at]] = True
                    held += float(share[at])
            own = start // segment * segment
            kept[b, h, rows, own : own + segment] = True
            holder = next(keys for keys in parts if 0 in keys)
            kept[b, h, rows, holder] = True
        orders.append(order)
    orders_ = torch.tensor(orders).reshape(*s.shape[:2], n)
    return kept & (s > -torch.inf), orders_


@pytest.mark.parametrize("n", [128, 120])
def test_it_keeps_what_the_formula_keeps(n: int) -> None:
    call = make_call(n, kv_heads=2, batch=2)
    pattern = permuted_block(8, 32, 0.6)
    expected, order = kept_by_formula(call, pattern)
    selection = call.select(pattern)
    assert selection.order is not None
    assert torch.equal(selection.order, order)
    assert torch.equal(call.kept(selection), expected)
    assert bool((expected.sum((2, 3)) < 0.95 * n * (n + 1) / 2).all())


def test_with_equal_keys_it_is_pooled() -> None:
    """Equal keys leave nothing to sort; with one block per segment the forced blocks are those of pooled_topk."""
    call = make_call(128)
    scores = replace(call.scores, key=call.scores.key[:, :, :1].expand_as(call.scores.key).contiguous())
    equal = Call(scores, call.layout)
    selection = equal.select(permuted_block(16, 16, 0.6))
    assert selection.order is not None
    assert torch.equal(selection.order, torch.arange(128).expand(1, 2, 128))
    assert torch.equal(equal.kept(selection), equal.kept(pooled_topk(16, 0.6)))


def test_sorting_puts_scattered_keys_into_one_block() -> None:
    """Eight keys that the last queries attend to, one in each block of a segment, fill its first block."""
    call = make_call(128)
    at = torch.arange(4, 64, 8)
    call.scores.key[:, :, at, 0], call.scores.query[:, :, 64:, 0] = 14.0, 5.0
    selection = call.select(permuted_block(8, 64, 0.5))
    assert selection.order is not None
    assert torch.equal(selection.order[..., :8].sort(-1).values, at.expand(1, 2, 8))
    kept = call.kept(selection)
    assert kept[:, :, 64:, at].all()
    # Unsorted, each of the eight blocks is needed to keep them all.
    assert float(kept[:, :, 64:, :64].double().mean()) < 0.5


def test_the_order_stays_inside_segments() -> None:
    order = make_call(100).select(permuted_block(8, 32)).order
    assert order is not None
    assert torch.equal(order // 32, (torch.arange(100) // 32).expand_as(order))
    assert torch.equal(order.sort(-1).values, torch.arange(100).expand_as(order))


def test_a_segment_of_broken_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"segment=20 and block=16; .*multiple of the block"):
        permuted_block(16, 20)
    with pytest.raises(ValueError, match="tau=2"):
        permuted_block(tau=2)
