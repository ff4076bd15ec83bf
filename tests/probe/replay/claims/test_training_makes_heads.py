"""How heads of a kind are counted and compared with untrained ones."""

import numpy as np
import pytest
from small_models import letters, llama

from probe.models import as_loaded
from probe.replay.claims import training_makes_heads
from probe.replay.claims.training_makes_heads import (
    STATISTICS,
    WIDTH,
    Statistic,
    _beyond,
    _many,
    _strongest,
    _uniform,
)
from probe.replay.finding import Estimate

HIGH, LOW = Statistic("a", "a heads", False, 0.3), Statistic("b", "b heads", False, 0.3, low=True)


def test_the_strongest_heads_are_chosen_on_other_prompts() -> None:
    """Noise gives nothing: of 40 heads, two are taken by the mean of the others, never by the prompt itself."""
    values = np.zeros((3, 40))
    values[:, 5] = [0.9, 0.8, 0.7]
    values[0, 7] = 1.0  # high in one prompt alone
    values[:, 8] = 0.1
    assert _strongest(values, HIGH) == pytest.approx([(0.9 + 0.1) / 2, (0.8 + 0.0) / 2, (0.7 + 0.0) / 2])
    assert _strongest(1 - values, LOW) == pytest.approx([0.5, 0.6, 0.65])


def test_kinds_are_counted_from_their_threshold_on() -> None:
    """By the mean over prompts, on the side that the kind lies on."""
    values = np.array([[0.2, 0.4, 0.3], [0.2, 0.4, 0.5]])
    assert (_many(values, HIGH), _many(values, LOW)) == (2, 1)


def test_beyond_is_the_whole_interval_against_every_seed() -> None:
    """Touching is not enough."""
    seeds = Estimate(0.3, 0.2, 0.4, "range")
    assert _beyond(Estimate(0.6, 0.41, 0.8), seeds, HIGH)
    assert not _beyond(Estimate(0.6, 0.4, 0.8), seeds, HIGH)
    assert _beyond(Estimate(0.1, 0.0, 0.19), seeds, LOW)
    assert not _beyond(Estimate(0.1, 0.0, 0.2), seeds, LOW)
    assert not _beyond(Estimate(0.6), seeds, HIGH)


def test_uniform_is_the_mean_over_rows() -> None:
    """1/2 at the second row, 1/WIDTH at the last."""
    assert _uniform() == pytest.approx(sum(1 / n for n in range(2, WIDTH + 1)) / (WIDTH - 1))


def test_every_statistic_is_measured_on_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One array [prompt, head] each, in order; the untrained model is another one."""
    monkeypatch.setattr(training_makes_heads, "WIDTH", 24)
    loaded = as_loaded((llama(), letters()))
    mine = training_makes_heads._by_prompt(loaded, None, 0, 2)
    other = training_makes_heads._by_prompt(loaded, 1, 0, 2)
    assert np.shape(mine) == np.shape(other) == (len(STATISTICS), 2, 8)
    assert all(not np.allclose(a, b) for a, b in zip(mine, other, strict=True))
    assert [one.repeated for one in STATISTICS] == sorted(one.repeated for one in STATISTICS)
