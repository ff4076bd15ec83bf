"""AttnAttrib on a model that copies what followed its last token: its head, its sentence, and the answer again."""

import numpy as np
import pytest
import tiny
import torch
from copier import copier
from hypothesis import given
from hypothesis import strategies as st
from support_pairs import random_pairs

from probe.circuits.answer_circuits import answer_circuit
from probe.circuits.answer_heads import attribution_heads
from probe.circuits.looks import rest_entropy
from probe.circuits.sources import peaks, sentence_scores
from probe.circuits.study import CircuitOptions, study
from probe.errors import UsageError
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.pairs import Pair
from probe.prompts.sentences import Sentence

WORDS = ["alphabetical", "bravissimo", "charlatanry", "deltamuscle", "everlasting", "foxtrotters", "."]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return copier(WORDS)


def planted(loaded: LoadedModel) -> list[Pair]:
    """``x a . y b . x``: x is followed by a in one sentence; x and y have changed places in the corrupt prompt."""
    made = []
    for number, (x, a, y, b) in enumerate([(0, 1, 2, 3), (4, 5, 0, 2), (3, 0, 5, 1), (2, 4, 1, 0)]):
        words = [WORDS[n] for n in (x, a, y, b)]
        texts = [
            f"{one} {words[1]} . {two} {words[3]} . {words[0]}" for one, two in (words[::2], words[2::-2])
        ]
        if number % 2:
            texts = [f"{t.split(' . ')[1]} . {t.split(' . ')[0]} . {words[0]}" for t in texts]
        answers = (" " + words[1], " " + words[3])
        prompts = [
            Prompt.of(t, loaded.tokenizer, answer=answer) for t, answer in zip(texts, answers, strict=True)
        ]
        made.append(Pair.of(*prompts, loaded.tokenizer, marks={"stated": 4 if number % 2 else 1}))
    return made


def test_the_copying_head_is_the_circuit_and_points_to_its_sentence(model: LoadedModel) -> None:
    report = attribution_heads(model, planted(model), memory=None)
    answer = report.answers[0]
    assert list(answer.extra["components"].component.values) == ["L1.H0"]
    assert answer.extra["components"].values[-1] == pytest.approx(1, abs=0.05)
    assert np.abs(answer.extra["random"].values).max() < 0.05
    assert report.provenance.settings["attribution_head"] == "L1.H0"
    assert answer.extra["in_circuit"].sel(layer=1, head=0) == answer.extra["in_circuit"].values.sum() == 1
    assert answer.extra["source_hits"].sel(layer=1, head=0) == 1
    assert answer.extra["sentence"].values.tolist() == [0, 1, 0, 1]
    steering = answer.extra["steering"]
    assert steering.sel(run="before", number="accuracy") == 1
    assert steering.sel(run="attributed", number="logit_difference") > steering.sel(
        run="random", number="logit_difference"
    )


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_everything_at_the_last_position_recovers_what_the_last_token_does_not_say(make: object) -> None:
    with study((make(), None), random_pairs(64, 3, 7), CircuitOptions(min_accuracy=0.0)) as case:
        found = answer_circuit(case, 1 - 1e-4)
        assert found.recovered[-1] >= 1 - 1e-4
        assert (found.recovered[:-1] < 1 - 1e-4).all()
        alone = float(found.heads.scores[0][0, 0].mean()) if found.components[0] == (("z", 0), 0) else None
        assert alone is None or found.recovered[0] == pytest.approx(alone, abs=1e-6)
        smaller = answer_circuit(case, 0.3)
        assert smaller.components == found.components[: len(smaller.components)]


def test_two_circuits_are_held_to_one_another() -> None:
    made = (tiny.llama(), None)
    answer = attribution_heads(made, random_pairs(64, 2, 7), memory=None, min_accuracy=0.0).answers[0]
    assert "steering" not in answer.extra, "without a tokenizer no text can be made"
    assert answer.extra["entropy"].shape == (2, 4)


@given(st.integers(2, 8), st.integers(1, 3), st.integers(0, 2**16), st.integers(1, 5))
def test_a_sentence_scores_what_falls_on_it_within_the_windows(
    keys: int, answers: int, seed: int, window: int
) -> None:
    rows = torch.rand(answers, keys + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cut = 1 + seed % (keys - 1)
    context = [Sentence("a", 0, cut), Sentence("b", cut, keys)]
    scores = sentence_scores(rows, context, window)
    found = peaks(rows, keys).tolist()
    wanted = [0.0, 0.0]
    for row, peak in zip(rows.tolist(), found, strict=True):
        assert row[peak] == max(row[1:keys])
        for key in range(1, keys):
            if -(window // 2) <= key - peak < (window + 1) // 2:
                wanted[int(key >= cut)] = max(wanted[int(key >= cut)], row[key])
    np.testing.assert_allclose(scores, wanted)


def test_entropy_leaves_the_first_token_out() -> None:
    found = rest_entropy(torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found[:2], [np.log(2), 0], atol=1e-6)
    assert found[2].isnan()


@pytest.mark.parametrize("changes", [{"delta": 0.0}, {"delta": 1.5}, {"window": 0}])
def test_what_cannot_be_asked(changes: dict) -> None:
    with pytest.raises(UsageError, match="delta"):
        attribution_heads((tiny.llama(), None), random_pairs(64), min_accuracy=0.0, **changes)
