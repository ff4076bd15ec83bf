"""Retrieval heads on JSON lookups: a planted copying head, where a copy may lie, and real weights."""

import numpy as np
import pytest
from copier import copier
from small_models import bert, letters, llama

from probe.errors import UsageError
from probe.experiments import json_retrieval
from probe.experiments.base import Ask, Experiment
from probe.experiments.copying import copy_scores
from probe.experiments.decoding import Step
from probe.experiments.json_retrieval import JsonRetrieval
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.json_lookups import Lookup
from probe.prompts.spans import Chars
from probe.report.ranking import top_heads


def test_planted_copying_head_scores_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head that is built to copy scores 1 on a lookup, and the others 0; the grid has the place of the pair."""
    built = copier(["stone", "river", "amber", "kettle", "violet", "key", "lock"])
    text = "stone key amber kettle violet. river lock river stone key"
    prompt = Prompt.of(
        text,
        built.tokenizer,
        spans={"answer": Chars((10, 29))},
        id="json:0:1of2",
        answer="amber kettle violet",
    )
    monkeypatch.setattr(json_retrieval, "json_lookups", lambda *_, **__: [Lookup(prompt, 0.25)])
    for place in ("span", "anywhere"):
        (answer,) = JsonRetrieval(samples=1, pairs=4, place=place).run(Ask(built))
        assert answer.head_map.sel(layer=1, head=0) == 1.0
        assert answer.extra["split"].sel(layer=1, head=0) == 2
        assert answer.extra["gate"].coords["depth"].values.tolist() == [0.25]
        assert float(answer.extra["top_head"].item()) == 1.0
    assert (
        f"place=anywhere, 4 pairs, 3 solved before the asked one, prompts of up to {len(prompt)} tokens"
        in (answer.notes[-1])
    )


def test_anywhere_counts_the_answer_s_tokens_wherever_they_are() -> None:
    """With `anywhere` a copy may lie outside the span, if the token is one of the answer's."""
    tokens, inside = [9, 5, 6, 5, 9, 7], np.array([False, True, True, False, False, False])
    steps = [Step(5, {0: np.array([1, 3, 0])}), Step(9, {0: np.array([0, 4, 4])})]
    here = copy_scores(steps, tokens, inside, {0: 3})[0]
    there = copy_scores(steps, tokens, inside, {0: 3}, anywhere=True)[0]
    assert here.tolist() == [0.5, 0.0, 0.0]
    assert there.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("model", "tokenizer", "why"),
    [
        (bert, letters, "generates"),
        (llama, lambda: None, "tokenizer"),
        (llama, letters, "128 positions: ask for fewer"),
    ],
)
def test_models_that_cannot_be_asked(model, tokenizer, why) -> None:
    """An encoder, a model without tokenizer and one with too few positions get NaN for every head and a reason."""
    loaded = LoadedModel(model(), tokenizer(), "small", ModelSource("given"))
    (answer,) = JsonRetrieval(samples=2).run(Ask(loaded))
    assert answer.head_map.shape == (2, 4)
    assert answer.head_map.isnull().all()
    assert why in answer.notes[0]


def test_wrong_parameters_are_refused_and_it_is_an_experiment() -> None:
    """Sizes are refused by name when the experiment is made."""
    for wrong in ({"samples": 0}, {"pairs": 3}):
        with pytest.raises(UsageError, match=f"json_retrieval: {next(iter(wrong))}"):
            JsonRetrieval(**wrong)
    assert isinstance(JsonRetrieval(), Experiment)
    assert JsonRetrieval().spec == "json_retrieval"


def test_known_retrieval_heads_of_real_weights(smollm2: LoadedModel) -> None:
    """On SmolLM2 the heads that copy needles copy JSON values too."""
    (answer,) = JsonRetrieval(samples=2, pairs=4).run(Ask(smollm2, seed=1))
    assert float(answer.extra["gate"].max()) == 1.0
    assert {"L18.H6", "L18.H7", "L17.H3"} <= {name for name, _ in top_heads(answer, 8)}
