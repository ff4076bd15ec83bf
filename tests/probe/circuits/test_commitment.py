"""The commitment layer: models that commit in a known layer, laws of separations, bad inputs."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from movers import POSITIONS, SHARP, VOCAB, Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.commitment import commitment_layer
from probe.circuits.separating import separation
from probe.errors import InputError, UsageError
from probe.models import LoadedModel
from probe.report.answer import Answer

FREE: dict[str, Any] = {"min_accuracy": 0.0}
SOURCE = 3


def _answer(model: object, pairs: Any, **changes: Any) -> Answer:
    report = commitment_layer(model, pairs, **changes)
    (key,) = report
    return report.answer(key)


def test_the_layer_that_fetches() -> None:
    """Before it nothing is told apart; from it on everything is, and each pair says the same."""
    answer = _answer(mover([Fetch(1, 0, SOURCE)], n_layers=4), fetch_pairs(SOURCE, count=12))
    assert answer.head_map.values.tolist() == [0.5, 1.0, 1.0, 1.0]
    assert float(answer.extra["commitment"]) == 1.0
    assert (answer.extra["commitment_by_pair"] == 1.0).all()
    assert 0.5 < float(answer.extra["bound"]) < 1.0
    assert np.allclose(answer.extra["control"].sel(bound="mean"), 0.5, atol=0.05)


def test_for_good_is_not_for_a_while() -> None:
    """A model that says right, then wrong, then right again commits where it says so last."""
    model = mover([Fetch(layer, 0, SOURCE) for layer in (0, 1, 2)], n_layers=4)
    with torch.no_grad():
        for layer, times in ((1, -3.0), (2, 9.0)):
            model.model.transformer.h[layer].attn.c_proj.weight.mul_(times)
    answer = _answer(model, fetch_pairs(SOURCE, count=12))
    assert answer.head_map.values.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert float(answer.extra["commitment"]) == 2.0


def test_too_few_pairs_commit_to_nothing() -> None:
    """Two pairs that are told apart are no more than two coins may give."""
    answer = _answer(mover([Fetch(1, 0, SOURCE)]), fetch_pairs(SOURCE, count=2))
    assert np.isnan(float(answer.extra["commitment"]))
    assert "no commitment layer" in answer.notes[0]


def _matcher() -> LoadedModel:
    """A mover whose layer 1 also raises a flag at a token that stands at `SOURCE` too."""
    model = mover([Fetch(2, 1, SOURCE)])
    width = 2 * VOCAB + POSITIONS
    attention, each = model.model.transformer.h[1].attn, torch.arange(3, VOCAB)
    with torch.no_grad():
        attention.c_attn.weight[each, each] = SHARP
        attention.c_attn.weight[each, width + each] = SHARP
        attention.c_attn.weight[VOCAB + SOURCE, 2 * width] = 1.0
        attention.c_proj.weight[0, VOCAB + POSITIONS] = 1.0
    return model


def test_the_layer_that_compares_a_continuation() -> None:
    """A probe finds the flag that fits and does not fit, where it is raised and not before."""
    answer = _answer(_matcher(), fetch_pairs(SOURCE, count=24), by="probe", draws=200)
    assert float(answer.head_map.sel(layer=0)) == pytest.approx(0.5, abs=0.1)
    assert (answer.head_map.sel(layer=[1, 2]) > 0.95).all()
    assert float(answer.extra["commitment"]) == 1.0


@pytest.mark.parametrize("by", ["lens", "probe"])
@pytest.mark.parametrize("model", [tiny.llama(), small_models.gpt2(), tiny.gemma3()])
def test_laws(model: object, by: Any) -> None:
    """The map is the mean over pairs; with the lens the last layer is the model's own answer."""
    pairs = random_pairs(50, count=6)
    answer = _answer(model, pairs, by=by, draws=50, **FREE)
    assert answer.by_prompt is not None
    assert np.allclose(answer.by_prompt.mean("prompt"), answer.head_map)
    assert ((answer.by_prompt >= 0) & (answer.by_prompt <= 1)).all()
    if by == "lens":
        measure = answer.extra["measure"].isel(layer=-1).values
        report = commitment_layer(model, pairs, **FREE)
        said = f"logit_difference {measure[0]:.3f} clean, {measure[1]:.3f} corrupt"
        assert said in report.provenance.notes[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(5, 9))
def test_a_draw_is_the_classes_exchanged(seed: int, pairs: int) -> None:
    """Exchanging the classes of all pairs separates alike; a feature that fits separates fully, among others."""
    torch.manual_seed(seed)
    states = torch.randn(pairs, 2, 2, 6, dtype=torch.float64)
    signs = torch.stack([torch.ones(pairs, dtype=torch.int64), -torch.ones(pairs, dtype=torch.int64)])
    found = separation(states, signs)
    assert float(found.draws[0]) == pytest.approx(float(found.draws[1]))
    assert float(found.pairs.mean()) == pytest.approx(float(found.draws[0]))
    states[..., 0] += 1e3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert float(separation(states, signs).draws[0]) > 0.9


def test_what_prompt_and_token_say_alone_does_not_separate() -> None:
    """States that are a sum of a prompt's and of a token's own part are at chance."""
    torch.manual_seed(0)
    prompt, token = torch.randn(2, 40, 2, 5, dtype=torch.float64)
    found = separation(prompt[:, :, None] + token[:, None], torch.ones(1, 40, dtype=torch.int64))
    assert torch.allclose(found.pairs, torch.full((40,), 0.5, dtype=torch.float64))


def test_bad_inputs() -> None:
    """Each is refused, and says what to do."""
    model, pairs = mover([Fetch(1, 0, SOURCE)]), fetch_pairs(SOURCE)
    with pytest.raises(UsageError, match="draws=0"):
        commitment_layer(model, pairs, draws=0)
    with pytest.raises(UsageError, match="level=1"):
        commitment_layer(model, pairs, level=1.0)
    with pytest.raises(UsageError, match="kl"):
        commitment_layer(model, pairs, measure="kl")
    with pytest.raises(InputError, match="needs 2"):
        commitment_layer(model, pairs[:1])
    with pytest.raises(InputError, match="needs 5"):
        commitment_layer(model, pairs[:4], by="probe")
    with pytest.raises(InputError, match="positions for 8"):
        commitment_layer(model, random_pairs(VOCAB, count=5, length=8), by="probe", **FREE)
