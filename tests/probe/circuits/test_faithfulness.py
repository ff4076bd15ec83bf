"""Faithfulness, completeness and minimality: what must hold of any circuit, and of one that is known."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from double import in_double
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs

from probe.circuits import CircuitOptions, activation_patching
from probe.circuits.curves import random_circuit, sizes_to
from probe.circuits.faithfulness import Faithfulness, faithfulness
from probe.circuits.members import Member
from probe.circuits.study import study
from probe.circuits.together import Together

FREE: dict[str, Any] = {"min_accuracy": 0.0}


def _everything(layers: int = 2, heads: int = 4) -> list[Member]:
    return sorted(
        [Member(layer, "z", head) for layer in range(layers) for head in range(heads)]
        + [Member(layer, "mlp_out") for layer in range(layers)]
    )


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, small_models.gpt2])
def test_the_whole_model_keeps_everything(make: Any) -> None:
    """Faithfulness of all nodes is 1 and completeness is what the embeddings alone do; of none, the other way round."""
    with study((make(), None), random_pairs(50), CircuitOptions(**FREE)) as case:
        judge = Faithfulness(case)
        both = [list(judge.everything), []]
        kept, removed = judge.kept(both), judge.removed(both)
        share = (case.clean - case.corrupt) / case.gap
        assert torch.allclose(kept[0], share, atol=1e-4)
        assert torch.allclose(removed[1], share, atol=1e-4)
        assert torch.allclose(kept[1], removed[0])
        assert float(share.mean()) == pytest.approx(1)


def test_where_the_last_token_is_the_same_nothing_is_left_of_no_circuit() -> None:
    """With every head and MLP corrupt only the last embedding reaches the logits, and that is the corrupt one's."""
    with study((in_double(tiny.llama()), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        assert torch.allclose(faithfulness(case, []), torch.zeros(3, dtype=torch.float64), atol=1e-9)


@given(chosen=st.sets(st.sampled_from(_everything())))
@settings(max_examples=6)
def test_keeping_is_patching_the_rest(chosen: set[Member]) -> None:
    """A circuit kept is its complement put in from the corrupt run."""
    with study((tiny.llama(), None), random_pairs(60, 2), CircuitOptions(**FREE)) as case:
        rest = set(_everything()) - chosen
        put = Together(case, "heads+mlps", "noise").recovery([rest])[0]
        assert float(faithfulness(case, chosen).mean() + put.mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_sets_of_one_are_activation_patching(direction: Any) -> None:
    """Each head by itself; the resumed run starts where the prompts begin to differ."""
    pairs = random_pairs(60)
    report = activation_patching(tiny.llama(), pairs, "z", direction=direction, **FREE)
    (key,) = report
    with study((tiny.llama(), None), pairs, CircuitOptions(**FREE)) as case:
        together = Together(case, "heads", direction)
        found = together.recovery([[one] for one in together.everything]).mean(-1)
    assert np.allclose(found.reshape(2, 4), report[key], atol=1e-4)


def test_sets_are_numbered_as_given() -> None:
    """Whatever layers they begin in, and however few go into one forward."""
    with study((tiny.llama(), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        together = Together(case, "heads+mlps", "denoise")
        sets = [[Member(1, "z", 2)], [], [Member(0, "mlp_out")], [Member(1, "mlp_out"), Member(0, "z", 1)]]
        at_once = together.numbers(sets)
        assert torch.allclose(at_once[1], case.corrupt, atol=1e-5)
        for number, one in enumerate(sets):
            assert torch.allclose(together.numbers([one])[0], at_once[number], atol=1e-5)


def test_a_member_that_does_nothing_can_go() -> None:
    """A head whose W_O is 0 loses nothing; what faithfulness loses without a member is a difference of two circuits."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0
    with study((model, None), random_pairs(60), CircuitOptions(**FREE)) as case:
        judge = Faithfulness(case)
        circuit = [Member(1, "z", 1), Member(0, "z", 0), Member(0, "mlp_out")]
        lost = judge.without_each(circuit)
        assert torch.allclose(lost[0], torch.zeros(3, dtype=torch.float64), atol=1e-6)
        both = judge.kept([circuit, circuit[:1] + circuit[2:]])
        assert torch.allclose(lost[1], both[0] - both[1], atol=1e-6)


@given(chosen=st.sets(st.sampled_from(_everything(3, 5)), min_size=1), seed=st.integers(0, 99))
def test_random_circuits_are_counted_alike(chosen: set[Member], seed: int) -> None:
    """As many heads in every layer, as many MLPs in all, none of them twice."""
    everything = _everything(3, 5)
    made = random_circuit(sorted(chosen), everything, np.random.default_rng(seed))
    assert len(set(made)) == len(made) == len(chosen)
    for layer in range(3):
        assert sum(m.layer == layer and m.node == "z" for m in made) == sum(
            m.layer == layer and m.node == "z" for m in chosen
        )
    assert set(made) <= set(everything)


def test_sizes_double() -> None:
    """From nothing to the largest asked, and the whole."""
    assert sizes_to(10, 10) == (0, 1, 2, 4, 8, 10)
    assert sizes_to(300, 6) == (0, 1, 2, 4, 6, 300)
    assert sizes_to(3, 1) == (0, 1, 3)
