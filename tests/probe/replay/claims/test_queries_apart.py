"""Keys in the queries' place: the distance of another passage's keys, from the same moments."""

import numpy as np
import pytest
import torch

from probe.metrics.qk_shift import QkShift
from probe.replay.claims.queries_apart import _as_queries
from probe.testing import Sample, feed


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cell(query: torch.Tensor, key: torch.Tensor) -> dict[str, torch.Tensor]:
    """The moments of a passage of one layer."""
    n = key.shape[-2]
    metric = feed(QkShift(), [Sample(query[None], key[None], normal(1, len(key), n, 2), torch.arange(n))])
    return next(iter(metric.cells.values()))


def test_other_keys_are_held_against_a_passages_own() -> None:
    """Keys drawn alike have ratio 1, keys shifted by 3 in each of 4 axes √10; one value per key/value head."""
    n = 4000
    own = cell(normal(4, n, 4, seed=1), normal(2, n, 4, seed=2))
    shifted = torch.stack([normal(n, 4, seed=3), normal(n, 4, seed=4) + 3])
    found = QkShift().value(_as_queries(own, cell(normal(4, n, 4), shifted)))
    assert found.shape == (2,)
    np.testing.assert_allclose(found.numpy(), [1.0, np.sqrt(10)], rtol=0.05)


def test_the_passages_own_cell_is_not_changed() -> None:
    """Its queries stay what they were."""
    own = cell(normal(2, 50, 3, seed=1) + 2, normal(2, 50, 3))
    before = QkShift().value(own).clone()
    _as_queries(own, cell(normal(2, 50, 3), normal(2, 50, 3, seed=5)))
    assert QkShift().value(own).tolist() == pytest.approx(before.tolist())
