"""Collapsed and overloaded heads are told apart by their thresholds."""

import numpy as np
import pytest
import torch

from probe.errors import UsageError
from probe.metrics import answers, make
from probe.metrics.entropy_state import EntropyState
from probe.testing import feed, on_pattern, samples


def test_planted_heads_have_their_state() -> None:
    """A head on itself is collapsed, a uniform one overloaded, one that halves its mass is neither."""
    half = torch.full((8, 8), 0.08)
    half[:, 0] = 1.0
    heads = torch.stack([torch.eye(8), torch.ones(8, 8), half])
    assert on_pattern(EntropyState(), heads).tolist() == [-1.0, 1.0, 0.0]
    assert on_pattern(EntropyState(collapse=0.7, overload=0.9), heads).tolist() == [-1.0, 1.0, -1.0]


def test_shares_are_normalised_entropy_and_layers_pool_their_heads() -> None:
    """`share_of_maximum` is `entropy:normalized=true`; a layer's share is the mean over its heads."""
    prompts = samples((9, 12))
    answer = answers(feed(EntropyState(), prompts))[0]
    plain = answers(feed(make("entropy:normalized=true"), prompts))[0].head_map
    np.testing.assert_allclose(answer.extra["share_of_maximum"], plain, rtol=1e-12)
    np.testing.assert_allclose(answer.extra["layer_share_of_maximum"], plain.mean("head"), rtol=1e-12)
    assert set(np.unique(answer.head_map)) <= {-1.0, 0.0, 1.0}
    assert (
        answer.extra["layer_entropy"] > answer.extra["layer_share_of_maximum"]
    ).all()  # log of keys > 1 here


@pytest.mark.parametrize("spec", ["collapse=0.8", "overload=1.2", "collapse=-0.1", "collapse=0.75"])
def test_thresholds_in_the_wrong_order_are_refused(spec: str) -> None:
    """Collapse lies below overload, both within 0 and 1."""
    with pytest.raises(UsageError, match="0 <= collapse < overload <= 1"):
        make(f"entropy_state:{spec}")
