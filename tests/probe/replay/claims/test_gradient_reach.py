"""Layers from the first to the last, and the shares of one passage."""

import numpy as np
from small_models import letters, llama

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.replay.claims.gradient_reach import NAMES, _of_passage, chosen_layers


def test_layers_are_spread_and_named_once() -> None:
    """Both ends are there, no more than there are."""
    for layers, wanted in ((11, [0, 2, 4, 6, 8, 10]), (2, [0, 1]), (1, [0])):
        small = LoadedModel(llama(num_hidden_layers=layers), letters(), "small", ModelSource("given"))
        assert chosen_layers(small) == wanted


def test_a_passage_gives_one_number_per_layer_and_name() -> None:
    """All shares lie in [0, 1], and the same seed gives them again."""
    small = LoadedModel(llama(num_hidden_layers=3), letters(), "small", ModelSource("given"))
    passage = Prompt.of_tokens(np.random.default_rng(0).integers(2, 50, 60).tolist(), id="p")
    found, again = (_of_passage(small, passage, [0, 2], 0) for _ in range(2))
    assert found == again
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(NAMES, 2)
    assert all(0 <= value <= 1 for values in found.values() for value in values)
