"""transformers' mask functions become predicates that hide exactly the same pairs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels.mask import Tile
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    blockwise_overlay,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    packed_sequence_compatibility_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from probe.seam.layouts import Extent, lie_of
from probe.seam.masks import lazy_mask


def visible_cells(lie, batch, n_query, n_key):
    """The pairs that a layout shows, over the whole map."""
    layout = lie.layout
    tile = Tile(
        layout.query_pos[:, :, None],
        layout.key_pos[:, None, :],
        None if layout.query_segment is None else layout.query_segment[:, :, None],
        None if layout.key_segment is None else layout.key_segment[:, None, :],
        slice(0, n_query),
        slice(0, n_key),
    )
    seen = layout.mask.visible(tile)
    seen = torch.ones(1, 1, 1, dtype=torch.bool) if seen is None else seen
    if layout.key_real is not None:
        seen = seen & layout.key_real[:, None]
    return seen.expand(batch, n_query, n_key)


def some_rule(kind, size, total):
    """One of transformers' mask functions, with the names of the predicates it should become."""
    ids = torch.arange(total)
    blocks = torch.where((ids // 2) % 2 == 0, ids // 4, -1).expand(2, -1)
    segments = (ids // max(1, size)).expand(2, -1)
    positions = (ids % max(1, size)).expand(2, -1)
    return {
        "causal": (causal_mask_function, ("causal",)),
        "all": (bidirectional_mask_function, ()),
        "window": (sliding_window_causal_mask_function(size), (f"within({size})", "causal")),
        "near": (sliding_window_bidirectional_mask_function(size), (f"near({size})",)),
        "chunk": (
            chunked_causal_mask_function(size, torch.zeros(2, dtype=torch.int64)),
            (f"same_chunk({size})", "causal"),
        ),
        "shifted_chunk": (chunked_causal_mask_function(size, torch.tensor([1, 0])), None),
        "blocks": (or_masks(causal_mask_function, blockwise_overlay(blocks)), None),
        "packed": (
            packed_sequence_compatibility_function(causal_mask_function, positions, segments),
            ("same_segment", "causal"),
        ),
        "unknown": (and_masks(causal_mask_function, lambda b, h, q, k: (q + k) % 3 != 1), None),
    }[kind]


KINDS = ["causal", "all", "window", "near", "chunk", "shifted_chunk", "blocks", "packed", "unknown"]


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS), size=st.integers(1, 6), length=st.integers(1, 9), offset=st.integers(0, 5),
    padded=st.integers(0, 4),
)  # fmt: skip
def test_a_recognised_rule_hides_the_same_pairs(kind, size, length, offset, padded):
    """Whatever the rule, offset and padding: the layout shows exactly what the dense mask shows."""
    offset = 0 if kind == "packed" else offset
    total = offset + length
    padding = torch.ones(2, total, dtype=torch.bool)
    padding[0, : min(padded, total - 1)] = False
    rule, names = some_rule(kind, size, total)
    mask = lazy_mask(
        batch_size=2, q_length=length, kv_length=total, q_offset=offset, kv_offset=0, mask_function=rule,
        attention_mask=None if kind == "packed" else padding, dtype=torch.float32, use_vmap=False, device="cpu",
    )  # fmt: skip
    lie = lie_of(mask, Extent(length, total, 0, torch.device("cpu")), is_causal=True)
    assert torch.equal(visible_cells(lie, 2, length, total), mask.dense()[:, 0])
    if names is not None:
        assert lie.layout.mask.names == names


def test_a_windowed_layout_keeps_absolute_positions():
    """A sliding cache hands over only the last keys; the layout still knows where they stand."""
    mask = lazy_mask(
        batch_size=1, q_length=1, kv_length=6, q_offset=20, kv_offset=15, mask_function=causal_mask_function,
        attention_mask=None, dtype=torch.float32, use_vmap=False, device="cpu",
    )  # fmt: skip
    lie = lie_of(mask, Extent(1, 6, 0, torch.device("cpu")), is_causal=True)
    assert lie.layout.query_pos.tolist() == [[20]]
    assert lie.layout.key_pos.tolist() == [[15, 16, 17, 18, 19, 20]]
