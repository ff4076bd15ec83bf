"""A one-layer model trained for seconds has a sink where nothing is to be copied, and drains its value."""

import numpy as np
import pytest
import torch

from probe.errors import UsageError
from probe.experiments.bigram_backcopy import Backcopied, Training, measure, train
from probe.prompts.bigram_backcopy import BigramBackcopy

QUICK = Training(width=32, length=64, batch=16, steps=250, rate=1e-2)


@pytest.fixture(scope="module")
def task() -> BigramBackcopy:
    return BigramBackcopy.of()


@pytest.fixture(scope="module")
def grown(task: BigramBackcopy) -> Backcopied:
    return measure(train(task, QUICK), task, count=12, length=QUICK.length)


def test_it_learns_the_task(grown: Backcopied) -> None:
    """Copying costs less than a tenth of a nat more than knowing it, the chain less than a third."""
    assert grown.excess["trigger"].mean() < 0.1
    assert grown.excess["other"].mean() < 0.3


def test_the_sink_is_at_rows_that_do_not_copy(grown: Backcopied) -> None:
    """Mass on BOS: nothing where the previous token is copied, far above its share where there is nothing to copy."""
    trigger, other = (grown.sink[rows].mean() for rows in ("trigger", "other"))
    assert trigger < 0.05
    assert other > 0.25  # uniform rows would give it 0.05
    assert grown.gap["other"].mean() > 0.5


def test_the_value_of_the_sink_is_drained(grown: Backcopied) -> None:
    """‖v_0‖ is well below that of the others, in every sequence."""
    assert (grown.drain[:, 0] < 0.8).all()


def test_the_untrained_model_has_none_of_it(task: BigramBackcopy) -> None:
    """Before training, mass on BOS does not depend on the row's kind, and its value is as long as others."""
    raw = measure(train(task, Training(width=32, length=32, batch=2, steps=1)), task, count=8, length=32)
    assert abs(raw.sink["trigger"].mean() - raw.sink["other"].mean()) < 0.05
    assert raw.drain.mean() > 0.6
    assert raw.peak.shape == raw.drain.shape == (8, 1)


def test_the_same_seed_trains_the_same_model_and_moves_no_generator(task: BigramBackcopy) -> None:
    """Weights are equal bit by bit, and the caller's random state is as it was."""
    how = Training(layers=2, width=16, length=8, batch=2, steps=3, optimiser="sgd")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = train(task, how), train(task, how)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert np.isfinite(measure(one, task, count=2, length=8).excess["other"]).all()


@pytest.mark.parametrize("bad", [{"layers": 0}, {"width": 15}, {"rate": 0.0}, {"length": 3}])
def test_what_cannot_be_trained_is_refused(bad: dict) -> None:
    """No layer, an odd width, no rate, a sequence with nothing to copy."""
    with pytest.raises(UsageError, match="was asked"):
        Training(**bad)
