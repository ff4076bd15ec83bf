"""Rank correlation within texts: scipy's on one text, planted agreement and independence, place taken away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from probe.replay import ranks
from probe.replay.ranks import above, drawn_range, shuffled, spearman

NUMBERS = arrays(np.float64, (2, 7), elements=st.integers(-50, 50).map(float), unique=True)


@settings(max_examples=15)
@given(NUMBERS)
def test_one_text_is_scipys(both: np.ndarray) -> None:
    """Spearman's rank correlation; that of several texts uses no differences between them."""
    one, other = both
    expected = spearmanr(one, other).statistic
    assert spearman([(one, other)]).value == pytest.approx(expected)
    assert spearman([(one, other), (one + 100, other - 100)]).value == pytest.approx(expected)


def test_planted_agreement_is_beyond_every_shuffle_and_noise_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same order gives 1 and the smallest p; independent numbers do not."""
    monkeypatch.setattr(ranks, "SHUFFLES", 199)
    random = np.random.default_rng(0)
    texts = [(values, values**3) for values in random.normal(size=(5, 12))]
    drawn = shuffled(texts, 0)
    assert spearman(texts).value == pytest.approx(1.0)
    assert above(spearman(texts), drawn) == pytest.approx(1 / 200)
    loose = [(one, other) for one, other in random.normal(size=(5, 2, 12))]
    assert above(spearman(loose), shuffled(loose, 0)) > 0.05
    assert (shuffled(texts, 1) == shuffled(texts, 1)).all()


def test_what_place_alone_explains_is_taken_away() -> None:
    """Two numbers that both follow the place agree, and do not once it is held fixed; what else agrees stays."""
    random, place = np.random.default_rng(1), np.arange(40.0)
    texts = [(place + random.normal(0, 4, 40), place + random.normal(0, 4, 40)) for _ in range(6)]
    assert spearman(texts).value > 0.7
    assert abs(spearman(texts, fixed=True).value) < 0.3
    shared = [
        (place + noise, place + noise + random.normal(0, 1, 40)) for noise in random.normal(0, 4, (6, 40))
    ]
    assert spearman(shared, fixed=True).value > 0.6


def test_ranges_are_lowest_and_highest() -> None:
    """A mean with its ends."""
    found = drawn_range([3.0, 1.0, 2.0])
    assert (found.value, found.low, found.high, found.kind) == (2.0, 1.0, 3.0, "range")
