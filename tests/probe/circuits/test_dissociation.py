"""Double dissociation: a model of two circuits, one of a single circuit, laws of the table, bad inputs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
from hypothesis import given
from hypothesis import strategies as st
from movers import ASK_A, ASK_B, Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.dissociation import double_dissociation
from probe.circuits.head_sets import HeadSet, matched_among
from probe.errors import InputError, UsageError
from probe.report.answer import Answer

FREE: dict[str, Any] = {"min_accuracy": 0.0}
A, B = fetch_pairs(2, ASK_A, count=8), fetch_pairs(4, ASK_B, count=8, seed=1)
TWO = (Fetch(1, 0, 2, ASK_A), Fetch(1, 1, 4, ASK_B))


def _answer(model: object, *args: Any, **changes: Any) -> Answer:
    report = double_dissociation(model, *args, **changes)
    (key,) = report
    return report.answer(key)


@pytest.mark.parametrize("by", ["attribution", "activation"])
@pytest.mark.parametrize("ablation", ["mean", "zero", "resample"])
def test_two_circuits(by: Any, ablation: Any) -> None:
    """Each task's head is found; without it nothing is left of that task, and all of the other."""
    answer = _answer(mover(TWO), A, B, 1, by=by, ablation=ablation, draws=4)
    chosen = answer.extra["chosen"]
    assert float(chosen.sel(circuit="a", layer=1, head=0)) == 1.0
    assert float(chosen.sel(circuit="b", layer=1, head=1)) == 1.0
    assert float(chosen.sum()) == 2.0
    lost = 2.0 if ablation == "resample" else 1.0  # the corrupt prompt's answer wins as the clean one's did
    assert np.allclose(answer.extra["drop"], lost * np.eye(2), atol=0.25)
    assert float(answer.head_map) > 0.7
    assert np.allclose(answer.extra["random"], 0.0, atol=1e-4)
    assert np.allclose(answer.extra["accuracy"].sel(circuit="none"), 1.0)
    assert (answer.extra["index_interval"] > 0.7).all()


def test_one_circuit_is_no_dissociation() -> None:
    """Both tasks through one head: the circuits are the same, and the index is 0."""
    model = mover([Fetch(1, 0, 2, ASK_A)])
    answer = _answer(model, A, fetch_pairs(2, ASK_A, count=6, seed=9), 1, draws=2)
    assert float(answer.head_map) == 0.0
    assert "share 1 of 1 heads" in " ".join(answer.notes)
    apart = _answer(model, A, fetch_pairs(2, ASK_A, count=6, seed=9), 1, draws=2, exclusive=True)
    assert not float((apart.extra["chosen"].prod("circuit")).sum())
    assert np.allclose(
        apart.extra["drop"], 0.0, atol=1e-4
    )  # without the head both have, nothing carries either


@pytest.mark.parametrize("model", [tiny.llama(), small_models.gpt2(), tiny.gemma3()])
def test_laws_of_the_table(model: object) -> None:
    """Exchanged tasks exchange the table; the point estimate lies in its own interval's range of resamples."""
    one, other = random_pairs(50, count=4), random_pairs(50, count=6, seed=3, length=7)
    answer, swapped = (_answer(model, *tasks, 2, draws=3, **FREE) for tasks in ((one, other), (other, one)))
    assert np.allclose(answer.extra["drop"].values[::-1, ::-1], swapped.extra["drop"].values, atol=1e-4)
    assert float(answer.head_map) == pytest.approx(float(swapped.head_map), abs=1e-4)
    drop = answer.extra["drop"].values
    assert float(answer.head_map) == min(drop[0, 0] - drop[1, 0], drop[1, 1] - drop[0, 1])
    assert answer.extra["chosen"].sum(["layer", "head"]).values.tolist() == [2.0, 2.0]
    assert answer.extra["random"].sizes == {"draw": 3, "circuit": 2, "task": 2}
    low, high = answer.extra["drop_interval"].values
    assert (low <= high).all()


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=8), st.integers(0, 99))
def test_a_matched_circuit_has_as_many_heads(circuit: set[tuple[int, int]], seed: int) -> None:
    """None of the circuit's own; as many per layer where the layer has them; as many in all."""
    every = {(layer, head) for layer in range(4) for head in range(5)}
    own: HeadSet = frozenset(circuit)
    drawn = matched_among(own, frozenset(every - circuit), np.random.default_rng(seed))
    assert len(drawn) == len(own)
    assert not drawn & own
    for layer in range(4):
        wanted = sum(one[0] == layer for one in own)
        assert sum(one[0] == layer for one in drawn) >= min(wanted, 5 - wanted)


def test_bad_inputs() -> None:
    """Each is refused, and says what to do."""
    model = mover(TWO)
    with pytest.raises(UsageError, match="top=0"):
        double_dissociation(model, A, B, 0)
    with pytest.raises(UsageError, match="the model has 6 heads"):
        double_dissociation(model, A, B, 4)
    with pytest.raises(InputError, match="one pair"):
        double_dissociation(model, A, B[:1], 1)
    unsolved = [replace(pair, right=pair.wrong, wrong=pair.right) for pair in B[:2]]
    with pytest.raises(UsageError, match="0% of its 2 clean prompts"):
        double_dissociation(model, A, unsolved, 1)
    with pytest.raises(UsageError, match="kl is 0"):
        double_dissociation(model, A, B, 1, by="activation", measure="kl")
    with pytest.raises(UsageError, match="accuracy has no gradient"):
        double_dissociation(model, A, B, 1, measure="accuracy")
