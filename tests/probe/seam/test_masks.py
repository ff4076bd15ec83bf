"""The lazy mask stays lazy where model code only passes it on, and equals the real mask where it does not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.masking_utils import (
    causal_mask_function,
    chunked_causal_mask_function,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from probe.seam.masks import LazyMask, lazy_additive_mask, lazy_mask

KEYWORDS = {
    "batch_size": 2,
    "q_length": 5,
    "kv_length": 8,
    "q_offset": 3,
    "kv_offset": 0,
    "mask_function": causal_mask_function,
    "attention_mask": None,
    "allow_is_causal_skip": True,
    "dtype": torch.float32,
    "config": None,
    "use_vmap": False,
    "device": "cpu",
}


@pytest.mark.parametrize(
    "passed_on",
    [
        lambda m: m.clone(),
        lambda m: m.detach(),
        lambda m: m.to("cpu"),
        lambda m: m[:, :, :, :4],
        lambda m: m[:, :, -2:, 1:],
        lambda m: m[:, :, :, :6][:, :, 1:, 2:],
        lambda m: m.expand(2, 4, -1, -1),
    ],
)
def test_passing_a_mask_on_keeps_it_lazy_and_right(passed_on):
    """Clones, device copies, slices of the last axes and head expansion stay lazy and show the right cells."""
    mask = lazy_mask(**KEYWORDS)
    kept = passed_on(mask)
    assert isinstance(kept, LazyMask)
    assert mask.spec.tally.count == 0
    assert torch.equal(kept.dense(), passed_on(mask.dense()))


@pytest.mark.parametrize(
    "computed",
    [lambda m: ~m, lambda m: m[:, 0], lambda m: m[:, :, ::2], lambda m: m.float(), lambda m: m & m],
)
def test_computing_with_a_mask_makes_it_dense_and_is_counted(computed):
    """Any arithmetic gives exactly what the dense mask would have given, and the tally says so."""
    mask = lazy_mask(**KEYWORDS)
    result = computed(mask)
    assert mask.spec.tally.count >= 1
    assert torch.equal(
        result, computed(sdpa_mask(**{**KEYWORDS, "allow_is_causal_skip": False}).expand(2, 1, 5, 8))
    )


def test_the_additive_form_is_zero_or_the_smallest_number():
    """Models without SDPA support get a float mask."""
    mask = lazy_additive_mask(**KEYWORDS)
    assert mask.dtype == torch.float32
    assert set(mask.dense().unique().tolist()) == {0.0, torch.finfo(torch.float32).min}


@settings(max_examples=30, deadline=None)
@given(
    offset=st.integers(0, 6),
    length=st.integers(1, 7),
    window=st.integers(1, 9),
    padded=st.integers(0, 4),
    kind=st.sampled_from(["causal", "window", "chunk"]),
)
def test_the_dense_form_is_what_transformers_builds(offset, length, window, padded, kind):
    """For every rule, offset and padding, the lazy mask's cells are transformers' own."""
    total = offset + length
    padding = torch.ones(2, total, dtype=torch.bool)
    padding[0, : min(padded, total - 1)] = False
    rules = {
        "causal": causal_mask_function,
        "window": sliding_window_causal_mask_function(window),
        "chunk": chunked_causal_mask_function(window, torch.zeros(2, dtype=torch.int64)),
    }
    keywords = {
        **KEYWORDS, "q_length": length, "kv_length": total, "q_offset": offset, "mask_function": rules[kind],
        "attention_mask": padding, "allow_is_causal_skip": False,
    }  # fmt: skip
    assert torch.equal(lazy_mask(**keywords).dense(), sdpa_mask(**keywords).expand(2, 1, length, total))
