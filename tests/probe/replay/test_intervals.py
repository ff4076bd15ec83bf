"""Bootstrap intervals: what they must hold, and over what they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probe.errors import UsageError
from probe.replay.intervals import interval, mean, spread, statistic

values = arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3))


@given(values)
def test_an_interval_lies_within_the_values(found: np.ndarray) -> None:
    """No mean of draws is below the lowest value or above the highest."""
    low, high = interval(found)
    slack = 1e-9 * (1 + np.abs(found).max())
    assert found.min() - slack <= low <= high <= found.max() + slack


@given(values, st.integers(2, 5))
def test_copies_of_a_prompt_add_nothing(found: np.ndarray, copies: int) -> None:
    """Prompts that share a needle count as one draw: copying every value within its group moves nothing."""
    many = np.repeat(found, copies)
    groups = np.repeat(np.arange(len(found)), copies)
    assert interval(many, groups.tolist()) == pytest.approx(interval(found), abs=1e-6)
    wide, narrow = np.ptp(interval(many, groups.tolist())), np.ptp(interval(many))
    assert narrow <= wide * 1.3 + 1e-6


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 300 samples of 40 normal numbers, close to 95 % have the true mean inside."""
    draw = np.random.default_rng(0)
    inside = [low <= 1.0 <= high for low, high in (interval(draw.normal(1, 2, 40)) for _ in range(300))]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_one_group_per_value() -> None:
    """Another number of groups is refused, with both numbers."""
    with pytest.raises(UsageError, match="3 values and 2 groups"):
        interval(np.zeros(3), ["a", "b"])


def test_a_statistic_has_the_value_on_all_rows() -> None:
    """The value is that of all rows; resamples without a finite one do not count."""
    pairs = np.stack([np.arange(20.0), np.arange(20.0) ** 2], 1)
    found = statistic(pairs, lambda rows: np.corrcoef(rows.T)[0, 1])
    assert found.value == pytest.approx(np.corrcoef(pairs.T)[0, 1])
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high <= 1
    only = statistic(np.array([1.0, 1.0]), lambda rows: np.nan)
    assert np.isnan(only.value)
    assert str(only) == "undefined"


def test_the_mean_of_the_mean_function_is_that_of_its_statistic() -> None:
    """`mean` is `statistic` of the mean: the same value, ends that agree."""
    found = np.random.default_rng(1).normal(size=30)
    one, other = mean(found), statistic(found, np.mean)
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.06)  # other draws


def test_a_spread_is_over_seeds() -> None:
    """The mean, the lowest and the highest seed, each over its prompts."""
    found = spread([[1.0, 3.0], [5.0, 7.0], [0.0, 0.0]])
    assert (found.value, found.low, found.high, found.kind) == (pytest.approx(8 / 3), 0.0, 6.0, "range")
