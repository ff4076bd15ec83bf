"""Head diversity equals the standard deviation of the dense patterns, pair by pair."""

import dense_metrics as dense
import numpy as np
import pytest
import torch

from probe.metrics import answers
from probe.metrics.head_diversity import HeadDiversity
from probe.testing import Feeding, feed, on_pattern, samples


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("unbiased", [False, True])
def test_equals_dense_patterns(window: int | None, unbiased: bool) -> None:
    """Mean over visible pairs of two prompts, padded and in pieces, with and without a window."""
    prompts = samples((11, 7), seed=4)
    found = answers(feed(HeadDiversity(unbiased), prompts, Feeding(pad=2, cuts=(3, 8, 9), window=window)))[0]
    assert found.head_map.dims == ("layer",)
    for layer in range(2):
        total, pairs = 0.0, 0
        for one in prompts:
            p = dense.pattern(one, layer, window)
            gap = np.subtract.outer(np.arange(one.length), np.arange(one.length))
            seen = (gap >= 0) & (gap < (window or one.length))
            total += p.std(0, ddof=int(unbiased))[seen].sum()
            pairs += int(seen.sum())
        assert float(found.head_map[layer]) == pytest.approx(total / pairs, rel=1e-5)


def test_heads_that_look_alike_have_none() -> None:
    """Copies of one head do not differ."""
    assert on_pattern(HeadDiversity(), torch.ones(3, 6, 6)) == pytest.approx([0.0], abs=1e-7)


def test_one_head_is_not_applicable() -> None:
    """A layer of one head has no answer, and says why."""
    answer = answers(feed(HeadDiversity(), samples((6,), heads=1, kv_heads=1)))[0]
    assert np.isnan(answer.head_map).all()
    assert "one head has nothing to differ from" in answer.notes[0]
