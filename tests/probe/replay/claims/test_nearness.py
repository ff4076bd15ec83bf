"""Relative distance is 1 for uniform rows, whatever the first key takes, and tells near from far."""

import numpy as np
import pytest
import torch

from probe.replay.claims.nearness import FROM, RelativeDistance
from probe.testing import on_pattern

N = 40


def value(pattern: torch.Tensor, *, sinks: bool) -> float:
    return float(on_pattern(RelativeDistance(sinks=sinks), pattern[None])[0])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_uniform_rows_are_one_whatever_the_sink_takes(share: float) -> None:
    """Beside the first key the row is uniform: exactly 1; with it, a sink makes attention far."""
    at = torch.arange(N).clamp_min(1).double()
    pattern = ((1 - share) / at)[:, None].expand(N, N).clone()
    pattern[:, 0] = max(share, 1e-9)
    assert value(pattern, sinks=False) == pytest.approx(1.0, abs=1e-4)
    assert (value(pattern, sinks=True) > 1.2) == (share >= 0.5)


def test_plain_uniform_rows_are_one() -> None:
    """With the first key as one of many."""
    assert value(torch.ones(N, N), sinks=True) == pytest.approx(1.0, abs=1e-6)


def test_near_is_below_one_and_rows_of_the_sink_alone_do_not_count() -> None:
    """A head on the token before: the mean of 2 / (i - 1) over rows; a head on the first key has no number."""
    previous = torch.eye(N).roll(-1, dims=1).tril() + torch.eye(N) * torch.tensor([1.0] + [0.0] * (N - 1))
    rows = np.arange(FROM, N)
    assert value(previous, sinks=False) == pytest.approx(float(np.mean(2 / (rows - 1))), rel=1e-4)
    first = torch.zeros(N, N)
    first[:, 0] = 1
    assert np.isnan(value(first, sinks=False))
    assert value(first, sinks=True) == pytest.approx(2.0, abs=1e-5)
