"""Retrieval: planted copying heads, the gate, what is left out, and real weights."""

import numpy as np
import pytest
from copier import copier
from hypothesis import given
from hypothesis import strategies as st
from small_models import bert, letters, llama

from probe.errors import UsageError
from probe.experiments import retrieval
from probe.experiments.base import Ask, Experiment
from probe.experiments.copying import copy_scores
from probe.experiments.decoding import Step
from probe.experiments.retrieval import Retrieval
from probe.experiments.rouge import rouge1_recall
from probe.models import LoadedModel, ModelSource
from probe.prompts import Needle
from probe.seam.session import Session

FILLER = ["stone", "river", "cloud", "grass", "bird", "lamp", "door", "road"]
ANSWER = ["amber", "kettle", "under", "violet", "bridge"]
WORDS = [*FILLER, *ANSWER, "vault", "needs", "."]
NEEDLES = (
    Needle("vault", "vault needs amber kettle under violet bridge.", "?", "amber kettle under violet bridge"),
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The copier, with a haystack and a needle of its own few words."""
    order = np.random.default_rng(0).integers(0, len(FILLER), size=400)
    text = " ".join(FILLER[i] + ("." if number % 7 == 6 else "") for number, i in enumerate(order))
    monkeypatch.setattr(retrieval, "haystack", lambda: text)
    monkeypatch.setattr("probe.prompts.haystacks.haystack", lambda: text)
    monkeypatch.setattr(retrieval, "needles", lambda: NEEDLES)
    return copier(WORDS)


def test_planted_copying_head_scores_one(planted: LoadedModel) -> None:
    """The head that is built to copy scores 1 in every test; a previous-token head and idle heads score 0."""
    (answer,) = Retrieval(lengths="40+60", depths="0.1+0.5+0.9", needles=1).run(Ask(planted))
    assert answer.head_map.sel(layer=1, head=0) == 1.0
    assert float(answer.head_map.sum()) == 1.0
    assert float(answer.extra["activation_frequency"].sel(layer=1, head=0)) == 1.0
    assert (answer.extra["gate"] == 1.0).all()
    assert (answer.extra["top_head"] == 1.0).all()
    assert dict(answer.by_prompt.sizes) == {"prompt": 6, "layer": 2, "head": 2}
    assert any("6 of 6 tests counted" in note for note in answer.notes)


def test_runs_repeat_and_restore(planted: LoadedModel) -> None:
    """The same seed gives the same answer; the model is left in the mode it was in, and unobserved."""
    one, two = (
        Retrieval(lengths="40", depths="0.5", needles=1).run(Ask(planted, seed=3))[0] for _ in range(2)
    )
    assert one.by_prompt.identical(two.by_prompt)
    assert not planted.model.training
    with Session(planted.model):
        pass


def test_no_passed_test_is_an_answer(planted: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model never finds the needle, scores are NaN and a note says so."""
    planted.model.lm_head.weight.data.zero_()
    (answer,) = Retrieval(lengths="40", depths="0.5", needles=1).run(Ask(planted))
    assert answer.head_map.shape == (2, 2)
    assert answer.head_map.isnull().all()
    assert answer.by_prompt is None
    assert float(answer.extra["gate"].item()) == 0.0
    assert any("no test was passed" in note for note in answer.notes)


def test_lengths_beyond_the_model_are_left_out(planted: LoadedModel) -> None:
    """A length that does not fit into the model's positions is left out with a note; the others count."""
    (answer,) = Retrieval(lengths="40+500", depths="0.5", needles=1).run(Ask(planted))
    assert float(answer.head_map.sel(layer=1, head=0)) == 1.0
    assert any("length 500 was left out" in note and "128 positions" in note for note in answer.notes)
    (none,) = Retrieval(lengths="500", depths="0.5", needles=1).run(Ask(planted))
    assert none.head_map.isnull().all()
    assert "not applicable" in none.notes[0]


def test_progress_counts_every_test(planted: LoadedModel) -> None:
    """Progress is told before each test and at the end."""
    told: list[tuple[int, int]] = []
    Retrieval(lengths="40", depths="0.1+0.9", needles=1).run(
        Ask(planted, progress=lambda done, total, _what: told.append((done, total)))
    )
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("model", "tokenizer", "style", "why"),
    [
        (bert, letters, "complete", "generates"),
        (llama, lambda: None, "complete", "tokenizer"),
        (llama, letters, "chat", "chat template"),
    ],
)
def test_models_that_cannot_be_asked(model, tokenizer, style, why) -> None:
    """An encoder, a model without tokenizer, and chat style without a template get NaN for every head and a reason."""
    loaded = LoadedModel(model(), tokenizer(), "small", ModelSource("given"))
    (answer,) = Retrieval(style=style).run(Ask(loaded))
    assert answer.head_map.shape == (2, 4)
    assert answer.head_map.isnull().all()
    assert why in answer.notes[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": "0"},
        {"lengths": "10.5"},
        {"lengths": "500+500"},
        {"lengths": ""},
        {"depths": "1.1"},
        {"depths": "nan"},
        {"depths": "a"},
        {"needles": 0},
        {"needles": 99},
    ],
)
def test_wrong_parameters_are_refused(wrong) -> None:
    """A parameter out of range is refused by name before anything runs."""
    with pytest.raises(UsageError, match=f"retrieval: {next(iter(wrong))}"):
        Retrieval(**wrong)


def test_is_an_experiment() -> None:
    """Retrieval is what the reports call an experiment, under its own name."""
    assert isinstance(Retrieval(), Experiment)
    assert Retrieval().spec == Retrieval.info.name == "retrieval"


def _step(token: int, *keys: int) -> Step:
    return Step(token, {0: np.array(keys)})


TOKENS = [9, 5, 6, 5, 9, 7]
IN_ANSWER = np.array([False, True, True, True, False, False])


def test_a_hit_needs_both_the_place_and_the_token() -> None:
    """Looking into the answer without saying that token, or saying it while looking elsewhere, is no copy."""
    steps = [_step(6, 2, 1, 0, -1), _step(7, 5, 5, 5, 5), _step(6, 99, 2, 2, 2)]
    scores = copy_scores(steps, TOKENS, IN_ANSWER, {0: 4})[0]
    assert scores.tolist() == [0.5, 0.5, 0.5, 0.5]
    assert copy_scores(steps[:1], TOKENS, IN_ANSWER, {0: 4})[0].tolist() == [0.5, 0.0, 0.0, 0.0]


def test_repeated_hits_with_and_without_dedup() -> None:
    """The set score counts a token once, of the unique ones; the count score counts every hit, of all, above 1 too."""
    steps = [_step(5, 1), _step(6, 2), _step(5, 3), _step(5, 1)]
    assert copy_scores(steps, TOKENS, IN_ANSWER, {0: 1})[0].tolist() == [1.0]
    assert copy_scores(steps, TOKENS, IN_ANSWER, {0: 1}, dedup=False)[0] == pytest.approx(4 / 3)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(-1, 8), min_size=3, max_size=3)), max_size=12)
)
def test_set_score_is_a_share_and_never_above_the_count(raw) -> None:
    """For any steps the set score lies in [0, 1], and is positive exactly where the count score is."""
    steps = [_step(token, *keys) for token, keys in raw]
    unique = copy_scores(steps, TOKENS, IN_ANSWER, {0: 3})[0]
    count = copy_scores(steps, TOKENS, IN_ANSWER, {0: 3}, dedup=False)[0]
    assert ((unique >= 0) & (unique <= 1)).all()
    assert ((unique > 0) == (count > 0)).all()


@pytest.mark.parametrize(
    ("reference", "response", "recall"),
    [
        ("purple walrus", "A Purple, walrus!", 1.0),
        ("the cat the dog", "the the the", 0.5),
        ("purple walrus", "", 0.0),
        ("...", "anything", 0.0),
        ("café au lait", "café", 1 / 3),
    ],
)
def test_rouge_recall(reference: str, response: str, recall: float) -> None:
    """Words count as often as the reference has them; case and punctuation do not matter."""
    assert rouge1_recall(reference, response) == pytest.approx(recall)


def test_known_retrieval_heads_of_real_weights(smollm2: LoadedModel) -> None:
    """On SmolLM2 the four sharp retrieval heads are all among the top six, and most tests count."""
    (answer,) = Retrieval(lengths="300", depths="0.5", needles=2).run(Ask(smollm2))
    best = answer.head_map.stack(at=("layer", "head")).to_series().nlargest(6)
    found = {f"L{layer}.H{head}" for layer, head in best.index}
    assert {"L18.H6", "L20.H6", "L18.H7", "L17.H3"} <= found
    assert float(answer.extra["gate"].mean()) == 1.0
