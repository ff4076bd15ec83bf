"""Keys that persist across layers: who chooses, who follows, and how positions are found again."""

from dataclasses import replace

import pytest
import torch
from probe_kernels import Layout
from probe_kernels.select import Site
from probe_kernels.select.persistent_topk import persistent_topk
from selecting import Call, block_any, make_call
from torch import Tensor

BARE = {"keep_first": False, "keep_diagonal": False}


def best_by_formula(call: Call, k: int, block: int) -> Tensor:
    """Bool ``[B, H, I, K]``: the k keys with most mass from each block of queries."""
    parts = []
    for rows in call.probs().split(block, dim=2):
        mass = rows.sum(2)
        best = mass.argsort(dim=-1, descending=True, stable=True)[..., :k]
        parts.append(torch.zeros_like(mass, dtype=torch.bool).scatter(2, best, True) & (mass > 0))
    return torch.stack(parts, dim=2)


def layer(number: int, memory: dict[str, object]) -> Site:
    return Site(number, memory)


def test_layers_before_and_at_the_choice_see_everything() -> None:
    pattern, memory = persistent_topk(4, (2, 5), 8), dict[str, object]()
    for number, dense in enumerate((True, True, True, False, False, True, False)):
        call = make_call(64, seed=number)
        everything = torch.equal(call.kept(pattern, layer(number, memory)), call.dense() > -torch.inf)
        assert everything == dense, number


@pytest.mark.parametrize("block", [8, 16])
def test_later_layers_keep_what_the_choosing_layer_attended_to(block: int) -> None:
    """Layers 3 and 4 keep layer 2's best keys; after layer 5, its best."""
    pattern, memory = persistent_topk(6, (2, 5), block, **BARE), dict[str, object]()
    calls = [make_call(64, kv_heads=2, seed=seed) for seed in range(7)]
    for number, chosen_by in ((2, None), (3, 2), (4, 2), (5, None), (6, 5)):
        kept = calls[number].kept(pattern, layer(number, memory))
        if chosen_by is not None:
            best = best_by_formula(calls[chosen_by], 6, block).repeat_interleave(block, 2)
            assert torch.equal(kept, best & (calls[number].dense() > -torch.inf))


def test_first_and_diagonal_come_on_top() -> None:
    pattern, memory = persistent_topk(2, (0,), 8), dict[str, object]()
    call = make_call(64)
    call.kept(pattern, layer(0, memory))
    kept = block_any(call.kept(pattern, layer(1, memory)), 8)
    assert kept[..., 0].all()
    assert kept.diagonal(dim1=2, dim2=3).all()


def test_a_missing_layer_is_made_up_for_by_the_next() -> None:
    """In a model whose layer 2 has no attention, layer 3 chooses."""
    pattern, memory = persistent_topk(4, (2,), 8), dict[str, object]()
    call = make_call(64)
    dense = [
        torch.equal(call.kept(pattern, layer(number, memory)), call.dense() > -torch.inf)
        for number in (0, 3, 4)
    ]
    assert dense == [True, True, False]


def test_each_decoded_query_ranks_by_its_scores() -> None:
    """Also where softmax leaves nothing of all but the best: scores of thousands."""
    pattern, memory = persistent_topk(5, (0,), 8, **BARE), dict[str, object]()
    call = make_call(64, n_query=1)
    call = Call(replace(call.scores, scale=900.0), call.layout)
    call.kept(pattern, layer(0, memory))
    kept = call.kept(pattern, layer(1, memory))[0, :, 0]
    best = call.dense()[0, :, 0].topk(5).indices
    assert torch.equal(kept.nonzero()[:, 1].reshape(2, 5), best.sort(-1).values)


def test_positions_are_found_again_where_keys_are_stored_otherwise() -> None:
    """A layer whose cache has dropped the first 24 keys and turned the rest around keeps the same positions."""
    pattern, memory = persistent_topk(10, (0,), 8, **BARE), dict[str, object]()
    call = make_call(64, n_query=1, seed=4)
    chosen = call.kept(pattern, layer(0, memory)) & False
    chosen |= call.kept(pattern, layer(1, memory))
    left = torch.arange(63, 23, -1)
    assert call.scores.value is not None
    scores = replace(call.scores, key=call.scores.key[:, :, left], value=call.scores.value[:, :, left])
    moved = Call(scores, Layout(call.layout.mask, call.layout.query_pos, left[None]))
    assert torch.equal(moved.kept(pattern, layer(2, memory)), chosen[..., left])
    assert 0 < int(chosen[..., left].sum()) < 20


def test_calls_of_another_shape_choose_for_themselves() -> None:
    """An encoder's choice does not serve a decoder with other heads."""
    pattern, memory = persistent_topk(4, (0,), 8), dict[str, object]()
    make_call(64).kept(pattern, layer(0, memory))
    other = make_call(64, kv_heads=3)
    assert torch.equal(other.kept(pattern, layer(1, memory)), other.dense() > -torch.inf)


def test_layers_must_be_named() -> None:
    with pytest.raises(ValueError, match="without layers; name at least one"):
        persistent_topk(4, ())
    with pytest.raises(ValueError, match=r"layers=-1; .*from 0 up"):
        persistent_topk(4, (-1,))
    with pytest.raises(ValueError, match="k=0"):
        persistent_topk(0)
