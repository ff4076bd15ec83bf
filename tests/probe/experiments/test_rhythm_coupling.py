"""Peaks of two signals: planted coincidence, planted independence, and the shifted control."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.experiments.rhythm_coupling import coincidence, drawn_shifts, peaks, pooled


def _flags(length: int, *at: int) -> np.ndarray:
    flags = np.zeros(length, dtype=bool)
    flags[list(at)] = True
    return flags


def test_peaks_are_local_maxima_above_a_quantile() -> None:
    """Ends and neighbours of undefined values are none, a flat top counts once, low maxima do not count."""
    values = np.array([9.0, 1.0, 2.0, 1.0, 7.0, 7.0, 7.0, 1.0, 8.0, np.nan, 9.0, 1.0, 3.0, 1.0])
    assert np.flatnonzero(peaks(values, 0.0)).tolist() == [2, 5, 12]
    assert np.flatnonzero(peaks(values, 0.5)).tolist() == [5, 12]
    assert np.flatnonzero(peaks(values, 0.7)).tolist() == [5]
    assert not peaks(np.full(5, np.nan), 0.5).any()


def test_before_and_after_count_as_asked() -> None:
    """Of three peaks one follows at two tokens, one is followed at one token, one stands alone."""
    these, others = _flags(40, 10, 20, 30), _flags(40, 8, 21)
    alone = np.zeros(0, dtype=np.int64)
    assert coincidence(these, others, before=2, after=0, shifts=alone).hits == 1
    assert coincidence(these, others, before=2, after=2, shifts=alone).hits == 2
    assert coincidence(these, others, before=1, after=0, shifts=alone).hits == 0
    assert np.isnan(coincidence(these, others, before=1, after=0, shifts=alone).p)


def test_planted_coupling_is_beyond_every_shift_and_independence_is_not() -> None:
    """The same irregular peaks coincide always, and seldom when shifted; unrelated ones as often as their shifts."""
    random = np.random.default_rng(0)
    same, other = random.random(500) < 0.05, random.random(500) < 0.05
    turns = drawn_shifts(500, 4, 200, random)
    coupled = coincidence(same, same, before=1, after=1, shifts=turns)
    assert coupled.share == 1.0
    assert coupled.shifted_shares.max() < 0.5
    assert coupled.p == pytest.approx(1 / 201)
    loose = coincidence(same, other, before=1, after=1, shifts=turns)
    assert 0.05 < loose.p <= 1.0


@given(st.integers(0, 60), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_shifts_leave_the_neighbourhood(length: int, apart: int, seed: int) -> None:
    """Every shift is farther than `apart` both ways around; where none is, there is no control."""
    turns = drawn_shifts(length, apart, 20, np.random.default_rng(seed))
    if turns is None:
        assert length < 2 * apart + 2
    else:
        assert ((turns > apart) & (length - turns > apart)).all()


def test_pooling_adds_peaks_hits_and_draws() -> None:
    """Two texts pooled are their sums, and a share of them weighs texts by their peaks."""
    shifts = np.array([5, 6])
    one = coincidence(_flags(20, 3, 9), _flags(20, 3), before=0, after=0, shifts=shifts)
    two = coincidence(_flags(20, 4), _flags(20, 4), before=0, after=0, shifts=shifts)
    both = pooled([one, two])
    assert (both.peaks, both.hits) == (3, 2)
    assert both.share == pytest.approx(2 / 3)
    assert both.shifted.tolist() == (one.shifted + two.shifted).tolist() == [0.0, 1.0]
    assert np.isnan(pooled([coincidence(_flags(9), _flags(9, 1), before=0, after=0, shifts=shifts)]).share)
