"""The smallest set of attention layers: models whose layers are known, laws of sets, bad inputs."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
from movers import Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.layer_sets import attention_subset
from probe.errors import InputError, UnknownNameError, UsageError
from probe.report.answer import Answer

FREE: dict[str, Any] = {"min_accuracy": 0.0}
SOURCE = 3


def _answer(model: object, pairs: Any, *args: Any, **changes: Any) -> Answer:
    report = attention_subset(model, pairs, *args, **changes)
    (key,) = report
    return report.answer(key)


def test_one_layer_carries_it() -> None:
    """The layer that fetches is found first and alone suffices; its complement does nothing."""
    answer = _answer(mover([Fetch(1, 0, SOURCE)], n_layers=4), fetch_pairs(SOURCE))
    assert int(answer.extra["order"][0]) == 1
    assert float(answer.extra["smallest"]) == 1.0
    assert np.allclose(answer.extra["recovery"].sel(size=[1, 2, 3, 4]), 1.0, atol=1e-4)
    assert np.allclose(answer.extra["complement"].sel(size=[1, 2, 3, 4]), 0.0, atol=1e-4)
    assert np.allclose(answer.head_map, [0, 1, 0, 0], atol=1e-4)
    # A random order finds the layer by chance: the mean over orders is below the greedy set's.
    assert (answer.extra["random"].sel(size=1).mean("draw") < 0.9).all()
    assert "1 of 4 layers (1) recover 0.9" in answer.notes[0]


def test_two_layers_carry_it_together() -> None:
    """Two layers that fetch the same token: either alone carries a part, and the two are found before the others."""
    answer = _answer(
        mover([Fetch(0, 0, SOURCE), Fetch(2, 1, SOURCE)], n_layers=4), fetch_pairs(SOURCE), 0.999
    )
    assert set(answer.extra["order"].sel(step=[1, 2]).to_numpy().tolist()) == {0, 2}
    assert float(answer.extra["smallest"]) == 2.0
    assert (answer.head_map.sel(layer=[0, 2]) < 0.999).all()
    assert np.allclose(answer.head_map.sel(layer=[1, 3]), 0.0, atol=1e-4)


@pytest.mark.parametrize("model", [tiny.llama(), small_models.gpt2(), tiny.gemma3()])
def test_laws_of_sets(model: object) -> None:
    """No layer recovers 0, all of them 1; the complement of a set is the set of the others."""
    answer = _answer(model, random_pairs(50, count=4), draws=3, **FREE)
    recovery, complement = answer.extra["recovery"], answer.extra["complement"]
    for name in ("recovery", "random"):
        assert np.allclose(answer.extra[name].sel(size=0), 0.0, atol=1e-4)
        assert np.allclose(answer.extra[name].sel(size=2), 1.0, atol=1e-3)
    # Two layers: what the first set leaves is the other layer, whose recovery alone is in the map.
    first, second = answer.extra["order"].to_numpy().astype(int)
    assert answer.by_prompt is not None
    halves = [answer.by_prompt[::2], answer.by_prompt[1::2]]
    for number, half in enumerate(halves):
        # Values by pair are shares of the gap of all pairs, the curves of that of their half.
        one, other = recovery[number].sel(size=1), complement[number].sel(size=1)
        sizes = float(half.sel(layer=first).mean()), float(half.sel(layer=second).mean())
        assert sizes[0] * float(other) == pytest.approx(sizes[1] * float(one), abs=1e-3)
    assert int(halves[0].mean("prompt").to_numpy().argmax()) == first
    assert np.allclose(answer.by_prompt.mean("prompt"), answer.head_map)


def test_a_seed_draws_the_same_controls() -> None:
    """Another seed draws others; no draws leave the control out."""
    model, pairs = mover([Fetch(1, 0, SOURCE)], n_layers=5), fetch_pairs(SOURCE, count=2)
    one, same, other = (_answer(model, pairs, draws=4, seed=seed).extra["random"] for seed in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)
    assert "random" not in _answer(model, pairs, draws=0).extra


def test_chosen_layers_only() -> None:
    """Layers that are not named are never patched."""
    answer = _answer(mover([Fetch(1, 0, SOURCE)]), fetch_pairs(SOURCE), layers=[0, 2])
    assert answer.head_map.layer.to_numpy().tolist() == [0, 2]
    assert np.isnan(float(answer.extra["smallest"]))
    assert "no greedy set recovers 0.9" in answer.notes[0]


def test_bad_inputs() -> None:
    """Each is refused, and says what to do."""
    model, pairs = mover([Fetch(1, 0, SOURCE)]), fetch_pairs(SOURCE)
    with pytest.raises(UsageError, match="threshold=0"):
        attention_subset(model, pairs, 0.0)
    with pytest.raises(UsageError, match="draws=-1"):
        attention_subset(model, pairs, draws=-1)
    with pytest.raises(InputError, match="one pair"):
        attention_subset(model, pairs[:1])
    with pytest.raises(UnknownNameError, match="middle"):
        attention_subset(model, pairs, at="middle")
    with pytest.raises(UsageError, match="layer 7"):
        attention_subset(model, pairs, layers=[7])
