"""Blocks by lot: the density that was asked, the first and the diagonal block, another draw by head, layer and seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels.select import Site, full, make, random_blocks
from selecting import block_any, density, make_call, padded


@settings(max_examples=25, deadline=None)
@given(st.floats(0.45, 1.0), st.sampled_from((4, 8, 13)), st.integers(0, 9))
def test_the_density_is_the_asked_one(share: float, block: int, seed: int) -> None:
    """To half a block of pairs for each head, as counted; every block is kept whole."""
    call = make_call(100, group=3)
    kept = call.kept(random_blocks(share, block, seed))
    seen = call.kept(full())
    off = (kept.sum((2, 3)) - share * seen.sum((2, 3))).abs()
    assert (off <= block * block / 2 + 1).all()
    assert torch.allclose(
        call.select(random_blocks(share, block, seed)).density(call.scores, call.layout),
        density(call, kept).double(),
        atol=1e-6,
    )
    whole = block_any(kept, block).repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :100, :100]
    assert torch.equal(kept, whole & seen)


def test_the_first_and_the_diagonal_block_are_kept_unless_told_not_to() -> None:
    """However small the density; without them a draw may leave rows empty."""
    call = make_call(128, group=2)
    blocks = block_any(call.kept(random_blocks(0.01, 8)), 8)
    assert blocks[..., 0].all()
    assert blocks.diagonal(dim1=-2, dim2=-1).all()
    assert blocks.sum() == 2 * (16 + 15)
    bare = block_any(call.kept(random_blocks(0.1, 8, keep_first=False, keep_diagonal=False)), 8)
    assert not bare.diagonal(dim1=-2, dim2=-1).all()
    few = density(call, call.kept(random_blocks(0.1, 8, keep_first=False, keep_diagonal=False)))
    assert torch.allclose(few, torch.tensor(0.1), atol=0.01)


def test_the_draw_is_by_head_layer_and_seed() -> None:
    """The same again for the same three."""
    call = make_call(128, group=2)
    one = call.kept(random_blocks(0.4, 8, seed=1))
    assert torch.equal(one, call.kept(random_blocks(0.4, 8, seed=1)))
    assert not torch.equal(one[:, 0], one[:, 1])
    assert not torch.equal(one, call.kept(random_blocks(0.4, 8, seed=2)))
    assert not torch.equal(one, call.kept(random_blocks(0.4, 8, seed=1), Site(layer=1)))


def test_padding_of_whole_blocks_changes_nothing() -> None:
    """What is padding is not counted, nor drawn."""
    call = make_call(64, group=2)
    kept = padded(call, 0, 16).kept(random_blocks(0.5, 8))
    assert torch.equal(kept[:, :, :64, :64].sum((2, 3)), call.kept(random_blocks(0.5, 8)).sum((2, 3)))
    assert not kept[..., 64:].any()


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_density_out_of_range_is_refused(share: float) -> None:
    """Zero density keeps nothing, which is no pattern."""
    with pytest.raises(ValueError, match="density"):
        random_blocks(share)


def test_the_name_makes_it_again() -> None:
    """All digits of the density included."""
    pattern = random_blocks(1 / 3, 16, 5, keep_first=False)
    assert make(pattern.name) == pattern
