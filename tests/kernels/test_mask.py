"""The bounds that let tiles be skipped never contradict the rule itself."""

import pytest
import torch
from attention_problems import make_mask
from hypothesis import given
from hypothesis import strategies as st
from probe_kernels import Layout, Mask, Tile
from probe_kernels.chunks import Ground
from probe_kernels.mask import causal, first, same_chunk, same_segment, within

PREDICATES = {"causal": causal(), "within": within(4), "same_chunk": same_chunk(5), "first": first(3)}


@given(
    st.lists(st.sampled_from(sorted(PREDICATES)), max_size=3),
    st.lists(st.sampled_from(sorted(PREDICATES)), max_size=3),
    st.integers(0, 20),
    st.integers(0, 12),
)
def test_reach_and_full_bound_what_is_seen(every: list[str], some: list[str], lo: int, length: int) -> None:
    """No key outside `reach` is seen by any query of the range; each key inside `full` is seen by all."""
    mask = Mask(tuple(PREDICATES[name] for name in every), tuple(PREDICATES[name] for name in some))
    query = torch.arange(lo, lo + length + 1)[None, :, None]
    key = torch.arange(-5, 40)[None, None, :]
    seen = mask.visible(Tile(query, key, None, None, slice(0, length + 1), slice(0, 45)))
    seen = torch.ones(1, length + 1, 45, dtype=torch.bool) if seen is None else seen.expand(1, length + 1, 45)
    low, high = mask.reach(lo, lo + length)
    outside = (key[0, 0] < low) | (key[0, 0] > high)
    assert not seen[..., outside].any()
    low, high = mask.full(lo, lo + length)
    inside = (key[0, 0] >= low) & (key[0, 0] <= high)
    assert seen[..., inside].all()


@pytest.mark.parametrize(
    "kind", ["none", "causal", "sliding", "chunked", "prefix", "dense", "rule", "nothing"]
)
def test_chunks_put_the_mask_together_again(kind: str) -> None:
    """Key range and edges of each chunk say exactly what the mask says, with padding and without."""
    for key_real in (None, torch.rand(1, 150, generator=torch.Generator().manual_seed(0)) > 0.1):
        layout = Layout(
            make_mask(kind, 130, 150), torch.arange(20, 150)[None], torch.arange(150)[None], None, None
        )
        layout = Layout(layout.mask, layout.query_pos, layout.key_pos, None, None, None, key_real)
        ground = Ground(layout, 130, 150)
        whole = ground.tile(slice(0, 130), slice(0, 150))
        whole = torch.ones(1, 130, 150, dtype=torch.bool) if whole is None else whole
        for chunk in ground.chunks(48):
            again = torch.zeros(1, chunk.n_rows, 150, dtype=torch.bool)
            again[..., chunk.keys] = chunk.visible(slice(0, chunk.n_keys))
            assert torch.equal(again, whole[:, chunk.rows])
            assert torch.equal(chunk.count_visible().expand(1, chunk.n_rows), again.sum(-1))


def test_segments_must_be_given_where_the_mask_asks_for_them() -> None:
    """same_segment without segments says what is missing."""
    with pytest.raises(ValueError, match="query_segment"):
        Ground(Layout(Mask((same_segment(),)), torch.arange(4)[None], torch.arange(4)[None]), 4, 4).chunk(
            slice(0, 4)
        )


def test_predicates_are_shown_by_name() -> None:
    """Reports speak of masks by their predicates' names."""
    assert Mask((causal(), within(4)), (first(2),)).names == ("causal", "within(4)", "any(first(2))")
    assert repr(causal()) == "causal"
