"""Recalled loss: slices by hand, a planted copying model, edits, and what is not applicable."""

import math

import numpy as np
import pytest
import torch
from copier import copier
from hypothesis import given
from hypothesis import strategies as st
from small_models import bert, gpt2, letters, t5

import probe
from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.model_answer import bounds, by_prompt, model_answer
from probe.experiments.recalled_loss import RecalledLoss, added_share
from probe.experiments.repeats import recalled
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt

WORDS = [f"w{i}" for i in range(20)]


def prompt(tokens: list[int], name: str = "p") -> Prompt:
    return Prompt.of_tokens(tokens, id=name)


def loaded(build: object) -> LoadedModel:
    return LoadedModel(build(), letters(), "small", ModelSource("given"))


@given(st.lists(st.integers(0, 3), min_size=0, max_size=25), st.integers(2, 4))
def test_recalled_tokens_are_found_by_looking_back(tokens: list[int], n: int) -> None:
    """A token is recalled iff the n tokens that end in it stand, as they are, further to the left."""
    wanted = [
        end >= n and any(tokens[at - n : at] == tokens[end - n : end] for at in range(n, end))
        for end in range(1, len(tokens) + 1)
    ]
    assert recalled(tokens, n).tolist() == wanted


def test_slices_are_means_of_eager_losses() -> None:
    """Each slice equals the mean of −log softmax over its tokens, all prompts pooled; shares and counts are exact."""
    small = loaded(gpt2)
    tokens = [[5, 6, 7, 5, 6, 7, 9], [8, 8, 8, 9]]
    (answer,) = RecalledLoss().run(Ask(small, tuple(prompt(one, f"p{n}") for n, one in enumerate(tokens))))
    loss, told = [], []
    for one in tokens:
        ids = torch.tensor([one])
        with torch.no_grad():
            logp = small.model(input_ids=ids).logits[0].double().log_softmax(-1)
        loss += [-float(logp[i - 1, one[i]]) for i in range(1, len(one))]
        told += recalled(one)[1:].tolist()
    loss, told = np.array(loss), np.array(told)
    assert told.sum() == 3
    wanted = [loss[told].mean(), loss[~told].mean(), loss.mean()]
    np.testing.assert_allclose(answer.extra["loss"].values, wanted, rtol=1e-5)
    assert answer.head_map.item() == pytest.approx(wanted[0], rel=1e-5)
    assert answer.extra["tokens"].values.tolist() == [3, 6, 9]
    assert answer.extra["share"].item() == pytest.approx(3 / 9)
    flat = answer.extra["token_loss"]
    assert flat.sizes["token"] == 11
    known = ~np.isnan(flat.values)
    np.testing.assert_allclose(flat.values[known], loss, rtol=1e-5)
    assert flat.coords["recalled"].values[known].tolist() == told.tolist()
    assert answer.by_prompt.values[0] == pytest.approx(loss[:6][told[:6]].mean(), rel=1e-5)


def copying_prompts() -> tuple[Prompt, ...]:
    """All words differ, then the first ones come again."""
    orders = [np.random.default_rng(seed).permutation(20)[:12] + 2 for seed in range(3)]
    return tuple(prompt([*one.tolist(), *one[:7].tolist()], f"p{n}") for n, one in enumerate(orders))


def test_a_model_that_only_copies_knows_recalled_tokens_alone() -> None:
    """The planted copier is sure of recalled tokens; without its copying head it is as lost there as elsewhere."""
    model, ask = copier(WORDS), copying_prompts()
    model.model.lm_head.weight.data.mul_(2.0)
    base = probe.analyze(model, list(ask), ["recalled_loss"]).answer("recalled_loss")
    assert base.head_map.item() < 1.0 < 3.0 < base.extra["loss"].sel(slice="other").item()
    silent = [probe.interventions.zero(heads=["L1.H0"])]
    edited = probe.analyze(model, list(ask), ["recalled_loss"], silent).answer("recalled_loss")
    assert edited.head_map.item() == pytest.approx(math.log(22), rel=0.01)
    assert edited.extra["loss_interval"].dims == ("bound", "slice")
    share = added_share(base, edited)
    assert share.sel(bound="value").item() > base.extra["share"].item() + 0.3
    assert share.sel(bound="low") <= share.sel(bound="value") <= share.sel(bound="high")


def test_shares_are_of_the_same_tokens() -> None:
    """Other prompts, other n-grams or another metric are refused; an edit that adds nothing has no share."""
    model, ask = copier(WORDS), copying_prompts()
    base, other = (RecalledLoss(ngram=n).run(Ask(model, ask))[0] for n in (2, 3))
    with pytest.raises(InputError, match="run both on the same"):
        added_share(base, other)
    metric = probe.analyze(model, list(ask), ["entropy"]).answer("entropy")
    with pytest.raises(InputError, match="two answers of recalled_loss"):
        added_share(base, metric)
    assert added_share(base, base).isnull().all()


def test_the_interval_is_over_prompts() -> None:
    """It holds the pooled value, and one prompt has none and says so."""
    (three,) = RecalledLoss().run(Ask(copier(WORDS), copying_prompts()))
    low, high = three.extra["interval"].values
    assert low <= three.head_map.item() <= high
    (one,) = RecalledLoss().run(Ask(copier(WORDS), copying_prompts()[:1]))
    assert one.extra["interval"].isnull().all()
    assert any("one prompt" in note for note in one.notes)


@pytest.mark.parametrize("build", [bert, t5])
def test_models_without_a_next_token_are_not_applicable(build: object) -> None:
    """Encoders and encoder-decoders get NaN and the reason, also when all metrics are asked."""
    (answer,) = RecalledLoss().run(Ask(loaded(build), (prompt([5, 6, 5, 6]),)))
    assert answer.head_map.isnull().all()
    assert answer.notes[0].startswith("not applicable")


def test_a_text_without_repetition_has_no_slice() -> None:
    """No repeated n-gram: undefined, never 0."""
    (answer,) = RecalledLoss().run(Ask(loaded(gpt2), (prompt([5, 6, 7, 8]),)))
    assert answer.head_map.isnull().all()
    assert "no n-gram of 2 tokens" in answer.notes[0]


def test_parameters_are_checked() -> None:
    """An n-gram has two tokens at least."""
    with pytest.raises(UsageError, match="ngram was 1"):
        RecalledLoss(ngram=1)


def test_pooling_over_prompts_leaves_undefined_ones_out() -> None:
    """A prompt without a value weighs nothing, and prompts of one name are numbered."""
    values = by_prompt(["a", "a", "b"], np.array([1.0, np.nan, 4.0]), np.array([1.0, 9.0, 2.0]))
    assert values.coords["prompt"].values.tolist() == ["a:0", "a:1", "b"]
    assert model_answer("recalled_loss", RecalledLoss.info, values, {}, []).head_map.item() == 3.0
    assert np.isnan(bounds(np.ones(1), np.ones(1), 0)).all()
