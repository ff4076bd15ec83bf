"""What claims on rhythm and receivers compute, on planted numbers that hold and on such that do not."""

import numpy as np
import pytest

from probe.replay.claims import peak_entropy, receivers, rhythm, suppression
from probe.replay.rhythms import Peaks


def _flags(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(150) < share


def test_coincidence_is_found_where_it_was_planted() -> None:
    """FAI peaks one token behind WAAD peaks coincide always; unrelated ones no more than when shifted."""
    coupled = [Peaks(one, np.roll(one, 1)) for one in (_flags(0.08, seed) for seed in range(6))]
    rows = rhythm._rows(coupled, 0)
    assert rhythm._share(rows) > 0.95
    assert rhythm._p(rows) == pytest.approx(1 / (1 + rhythm.DRAWS))
    assert rhythm._gap(rows) == pytest.approx(rhythm._share(rows) - rhythm._shifted(rows).value)
    loose = rhythm._rows([Peaks(_flags(0.08, seed), _flags(0.08, 50 + seed)) for seed in range(6)], 0)
    assert rhythm._p(loose) > 0.05
    assert abs(rhythm._gap(loose)) < 0.2


def test_entropy_is_higher_exactly_where_it_was_planted() -> None:
    """One nat more at peaks is a difference of one nat; among tokens that hold no peak nothing is left to compare."""
    flags = [_flags(0.1, seed) for seed in range(4)]
    entropies = [0.5 + one for one in flags]
    rows = peak_entropy._rows(flags, entropies, 0)
    assert peak_entropy._at(rows) == pytest.approx(1.5)
    assert peak_entropy._elsewhere(rows) == pytest.approx(0.5)
    assert (peak_entropy._by_shift(rows) < 0.7).all()
    half = [np.arange(150) < 75 for _ in flags]
    within = peak_entropy._rows(
        flags, [0.5 + one + 9 * ~inside for one, inside in zip(flags, half, strict=True)], 0, half
    )
    assert peak_entropy._gap(within) == pytest.approx(1.0)
    assert within[:, 2].tolist() == [75.0] * 4


def test_steady_heads_are_reliable_and_shuffled_ones_are_not() -> None:
    """Kurtoses that are a trait of the head correlate, share their top heads, and do not when shuffled."""
    random = np.random.default_rng(0)
    steady = np.repeat(random.normal(size=(1, 6, 8)), 4, axis=0)
    assert receivers._value(steady, 0).value == pytest.approx(1.0)
    assert receivers._overlap(steady) == 1.0
    assert receivers._shuffled(steady, 0).high < 0.8


def test_pairs_leave_out_sentences_without_a_score_and_effects_that_are_near() -> None:
    """Scores and effects of the same sentences; effects on the next sentence do not count from two sentences on."""
    scores = [np.array([[3.0, 2.0, 1.0, np.nan]])]
    effects = np.full((4, 4), np.nan)
    effects[1:, 0], effects[2:, 1], effects[3, 2] = [9.0, 1.0, 1.0], [9.0, 1.0], 9.0
    ((score, near),) = suppression._pairs(scores, [effects])
    assert score.tolist() == [3.0, 2.0, 1.0]
    ((_, far),) = suppression._pairs(scores, [effects], 2)
    assert np.isnan(far[2])
    assert far[0] < near[1]


def test_random_heads_are_as_many_of_each_layer() -> None:
    """None of those that are chosen; where more than half are, all that is left."""
    chosen = np.array([[True, False, False, False], [True, True, False, False], [True, True, True, False]])
    for others in suppression._others(chosen, 0):
        assert others.sum(1).tolist() == [1, 2, 1]
        assert not (others & chosen).any()
