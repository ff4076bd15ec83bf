"""Correlations by head and passage, their control, and the share of heads below 0."""

import numpy as np
import pytest
from small_models import letters, llama

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.replay.claims.query_norm import HOW, _gap, _of_passage, _share


def test_every_head_has_every_number_and_shuffling_breaks_the_pairs() -> None:
    """Two layers of four heads; shuffled norms repeat with the seed and correlate less."""
    small = LoadedModel(llama(), letters(), "small", ModelSource("given"))
    passage = Prompt.of_tokens(np.random.default_rng(0).integers(2, 50, 100).tolist(), id="p")
    found, again, other = (_of_passage(small, passage, seed) for seed in (0, 0, 1))
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys((*HOW, "shuffled"), 8)
    assert found == again
    assert found["as it is"] == other["as it is"]
    assert found["shuffled"] != other["shuffled"]
    assert np.abs(found["shuffled"]).mean() < np.abs(found["as it is"]).mean()


def test_heads_without_a_value_are_not_counted() -> None:
    """A head that is undefined in all passages is left out, one that is so in some counts by the others."""
    values = np.array([[-0.5, 0.5, np.nan, np.nan], [-0.1, 0.3, np.nan, -0.2]])
    assert _share(values).value == pytest.approx(2 / 3)


def test_the_gap_is_the_lower_end_of_the_interval() -> None:
    """Shuffled minus measured, prompt by prompt: alike prompts leave no doubt."""
    found = {"shuffled": np.zeros((4, 3)), "as it is": np.full((4, 3), -0.25)}
    assert _gap(found, "as it is") == pytest.approx(0.25)
