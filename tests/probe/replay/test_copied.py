"""Needle tests of claims: where needles lie, what is kept, and what scores are compared with."""

import numpy as np
import pytest
from copier import copier
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probe.experiments.copy_tests import CopyTest
from probe.models import LoadedModel
from probe.prompts import Needle, Prompt, needles
from probe.prompts.spans import Chars
from probe.replay.copied import Hide, copied, copy_tests, held_by, ranks_agree, score_of, shuffled_in_layers
from probe.replay.forced import distance_of, far_needles, forced_recall
from probe.replay.work import Work

WORDS = ["stone", "river", "amber", "kettle", "violet", "key", "lock"]


@pytest.fixture(scope="module")
def built() -> LoadedModel:
    """The hand-built induction circuit."""
    return copier(WORDS)


def _lookup(loaded: LoadedModel) -> Prompt:
    return Prompt.of(
        "stone key amber kettle violet. river lock river stone key",
        loaded.tokenizer, spans={"answer": Chars((10, 29))}, id="needle:x", answer="amber kettle violet",
    )  # fmt: skip


def test_a_test_gives_the_scores_of_every_head(built: LoadedModel) -> None:
    """The copying head of the circuit has 1, the others 0, and the test counts."""
    found = score_of(built, CopyTest(_lookup(built), 20, 0.5))
    assert found == {"counted": True, "shape": [2, 2], "scores": {"1.0": 1.0}}


def test_a_model_that_stops_at_once_has_an_empty_map(
    built: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test without a response does not count, and is as large as the others in the kept arrays."""
    tests = [CopyTest(_lookup(built), 20, 0.5) for _ in range(2)]
    monkeypatch.setattr("probe.replay.copied.copy_tests", lambda *_: tests)
    kept = iter([score_of(built, tests[0]), {"counted": False, "shape": [0, 0], "scores": {}}])

    class Planted(Work):
        def __init__(self) -> None:
            self.model, self.seed, self.small = built, 0, False

        def keep(self, *_: object) -> object:
            return next(kept)

    found = copied(Planted(), Hide((0,), 20, (0.5,)))
    assert found.scores.tolist() == [[[0, 0], [1, 0]], [[0, 0], [0, 0]]]
    assert found.found.shape == (1, 2, 2)
    assert found.found_needles == ["x"]


def test_a_forced_answer_is_recalled_unless_the_copying_head_is_off(built: LoadedModel) -> None:
    """The circuit says every token of the answer when given those before it; without its head it says none."""
    from probe.interventions import zero

    prompt = _lookup(built)
    assert forced_recall(built, prompt)[0] == 1.0
    right, loss = forced_recall(built, prompt, [zero(["L1.H0"])])
    assert right == 0.0
    assert loss > forced_recall(built, prompt)[1]
    assert distance_of(prompt) == len(prompt) - 1 - 4


def test_needles_lie_where_they_were_asked(monkeypatch: pytest.MonkeyPatch, smollm2: LoadedModel) -> None:
    """Every needle at every depth, a longer prompt a longer stretch of one haystack; far needles are held out."""
    short, long = (copy_tests(smollm2, Hide((0, 1), length, (0.1, 0.9)), 3) for length in (120, 200))
    assert [one.prompt.id.split(":")[1] for one in short] == [needles()[at].id for at in (0, 0, 1, 1)]
    for one, two in zip(short, long, strict=True):
        assert len(one.prompt) <= 120 < len(two.prompt) <= 200
        assert one.depth == two.depth
    assert short[0].prompt.text[:30] == long[0].prompt.text[:30]
    far = far_needles(smollm2, 2, 200)
    assert [one.id.split(":")[1] for one in far] == [one.id for one in needles()[4:6]]
    assert all(distance_of(one) > 100 for one in far)


@given(arrays(np.float64, (4, 5), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0])), st.integers(0, 99))
def test_laws_of_what_scores_are_compared_with(values: np.ndarray, seed: int) -> None:
    """A shuffle keeps every layer's scores; a map agrees with itself; all heads hold everything."""
    other = shuffled_in_layers(values, seed)
    assert (np.sort(other, axis=1) == np.sort(values, axis=1)).all()
    if np.ptp(values):
        assert ranks_agree(values, values) == pytest.approx(1.0)
        assert ranks_agree(values, -values) == pytest.approx(-1.0)
    else:
        assert np.isnan(ranks_agree(values, values))
    if values.sum():
        assert held_by(values, 1.0) == pytest.approx(1.0)
        assert held_by(values, 0.05) == pytest.approx(values.max() / values.sum())


def test_the_default_needles_are_four_and_more() -> None:
    """Claims hide needles by number: the train part is the first four."""
    assert all(isinstance(one, Needle) for one in needles()[:4])
    assert len(needles()) >= 10
