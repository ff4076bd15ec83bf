"""Query-key shift: planted distances, shrinkage as scikit-learn's, shared keys, and bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import oas

from probe.errors import UsageError
from probe.metrics import answers, make
from probe.metrics.qk_shift import shrunk
from probe.testing import Sample, feed, samples


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(query: torch.Tensor, key: torch.Tensor) -> Sample:
    n = key.shape[-2]
    return Sample(query[None], key[None], normal(1, key.shape[0], n, 2), torch.arange(n))


@given(d=st.integers(1, 6), n=st.integers(2, 30), seed=st.integers(0, 99))
def test_the_covariance_is_scikit_learns(d: int, n: int, seed: int) -> None:
    """Shrunk by the same amount, towards the same multiple of the identity."""
    x = normal(n, d, seed=seed).numpy()
    wanted, _ = oas(x)
    found = shrunk(torch.from_numpy(np.atleast_2d(np.cov(x.T, bias=True)))[None], n)[0]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_queries_that_are_keys_have_ratio_one() -> None:
    """Queries drawn as the keys lie as far as unseen keys; a shift of s deviations in every axis makes √(1 + s²)."""
    n, d, shift = 6000, 4, 3.0
    key = normal(1, n, d)
    query = torch.stack([normal(n, d, seed=1), normal(n, d, seed=2) + shift])
    (answer,) = answers(feed(make("qk_shift"), [planted(query, key)]))
    np.testing.assert_allclose(answer.head_map.values[0], [1.0, np.sqrt(1 + shift**2)], rtol=0.03)
    np.testing.assert_allclose(answer.extra["keys"].values[0], [np.sqrt(d)] * 2, rtol=0.03)
    ratio = answer.extra["queries"] / answer.extra["keys"]
    np.testing.assert_allclose(answer.head_map.values, ratio.values)


def test_stretching_all_of_a_heads_space_changes_nothing() -> None:
    """Mahalanobis' distance knows no units: q and k scaled together keep the ratio."""
    query, key = normal(2, 200, 4, seed=1) + 1.0, normal(2, 200, 4)
    plain, scaled = (
        answers(feed(make("qk_shift"), [planted(query * by, key * by)]))[0].head_map.values
        for by in (1.0, 7.0)
    )
    np.testing.assert_allclose(plain, scaled, rtol=1e-6)


def test_heads_are_held_against_the_keys_that_they_share() -> None:
    """With two key/value heads, each query head's answer is that of its own pair."""
    query, key = normal(4, 100, 4, seed=1), torch.stack([normal(100, 4), 3 * normal(100, 4, seed=2) + 1])
    (shared,) = answers(feed(make("qk_shift"), [planted(query, key)]))
    for head in range(4):
        alone = planted(query[head : head + 1], key[head // 2 : head // 2 + 1])
        (one,) = answers(feed(make("qk_shift"), [alone]))
        np.testing.assert_allclose(shared.head_map.values[0, head], one.head_map.values[0, 0], rtol=1e-9)


def test_a_far_first_token_counts_unless_it_is_skipped() -> None:
    """A key far off at place 0 widens the covariance; `skip=1` leaves it out."""
    query, key = normal(1, 400, 3, seed=1) + 2.0, normal(1, 400, 3)
    far = key.clone()
    far[0, 0] += 1000.0
    with_it, without = (
        answers(feed(make(spec), [planted(query, far)]))[0].head_map.item()
        for spec in ("qk_shift", "qk_shift:skip=1")
    )
    plain = answers(feed(make("qk_shift:skip=1"), [planted(query, key)]))[0].head_map.item()
    assert without == pytest.approx(plain)
    assert abs(with_it - without) > 0.5


@pytest.mark.parametrize("length", [1, 2, 3])
def test_too_few_keys_have_no_distribution(length: int) -> None:
    """Fewer than two keys of a half give NaN."""
    assert answers(feed(make("qk_shift"), samples((length,))))[0].head_map.isnull().all()


def test_keys_that_do_not_differ_have_no_distance() -> None:
    """A covariance of 0 is undefined, never infinite."""
    (answer,) = answers(feed(make("qk_shift"), [planted(normal(1, 20, 3), torch.ones(1, 20, 3).double())]))
    assert answer.head_map.isnull().all()


def test_a_negative_skip_is_refused() -> None:
    """The message says what is allowed."""
    with pytest.raises(UsageError, match="0 or more"):
        make("qk_shift:skip=-1")
