"""Context gain: losses by hand, a planted copying model, windows, and what is not applicable."""

import numpy as np
import pytest
import torch
from copier import copier
from small_models import bert, gpt2, letters

from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.context_gain import ContextGain
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt

WORDS = [f"w{i}" for i in range(30)]


def loaded(build: object) -> LoadedModel:
    return LoadedModel(build(), letters(), "small", ModelSource("given"))


def random_prompt(n: int, seed: int = 0) -> Prompt:
    return Prompt.of_tokens(np.random.default_rng(seed).integers(2, 50, n).tolist(), id=f"p{seed}")


def test_gain_is_the_difference_of_two_eager_losses() -> None:
    """Per token, of the last tokens of each window, equal to losses from whole logits."""
    small, text = loaded(gpt2), random_prompt(64)
    (answer,) = ContextGain(long=20, short=6, last=5, windows=2).run(Ask(small, (text,)))
    for window, start in enumerate((0, 25)):
        for at, token in enumerate(range(start + 20, start + 25)):
            both = []
            for context in (6, 20):
                ids = torch.tensor([text.tokens[start + 20 - context : token]])
                with torch.no_grad():
                    logits = small.model(input_ids=ids).logits[0, -1].double()
                both.append(-float(logits.log_softmax(-1)[text.tokens[token]]))
            found = answer.extra["gain"].values[window, at]
            assert found == pytest.approx(both[0] - both[1], abs=1e-4)
    assert answer.head_map.item() == pytest.approx(float(answer.extra["gain"].mean()))
    loss = answer.extra["loss"]
    assert answer.head_map.item() == pytest.approx(
        float(loss.sel(context="short") - loss.sel(context="long"))
    )
    assert answer.by_prompt.coords["prompt"].values.tolist() == ["p0:0", "p0:1"]


def test_a_model_that_copies_gains_on_far_tokens_alone() -> None:
    """Repeated words whose first occurrence only the long context holds have all of the gain, and other words none."""
    model = copier(WORDS)
    prompts = []
    for seed in range(3):
        order = (np.random.default_rng(seed).permutation(30) + 2).tolist()
        prompts.append(
            Prompt.of_tokens([*order[:10], *order[10:20], *order[:6], *order[20:24]], id=f"p{seed}")
        )
    (answer,) = ContextGain(long=20, short=8, last=10, windows=1).run(Ask(model, tuple(prompts)))
    slices = answer.extra["slice_gain"].sel(bound="value")
    assert slices.sel(slice="far").item() > 1.0
    assert abs(slices.sel(slice="other").item()) < 0.01
    assert np.isnan(slices.sel(slice="near").item())
    assert answer.extra["slice_share"].values == pytest.approx([0.5, 0.0, 0.5])
    assert answer.extra["share_of_gain"].sel(slice="far").item() == pytest.approx(1.0, abs=0.05)
    assert (answer.extra["gain"].coords["slice"].values[0] == ["other", *["far"] * 5, *["other"] * 4]).all()
    low, high = answer.extra["interval"].values
    assert low <= answer.head_map.item() <= high


def test_a_beginning_of_sequence_token_stands_before_either_context() -> None:
    """It is put before the cut context, and not counted as context."""
    small = loaded(gpt2)
    small.tokenizer.bos_token = "a"
    bos = small.tokenizer.bos_token_id
    body = random_prompt(30).tokens
    text = Prompt.of_tokens([bos, *body], small.tokenizer, id="p")
    assert text.bos
    (answer,) = ContextGain(long=20, short=6, last=10).run(Ask(small, (text,)))
    ids = torch.tensor([[bos, *body[14:29]]])
    with torch.no_grad():
        logits = small.model(input_ids=ids).logits[0, -1].double()
    short = -float(logits.log_softmax(-1)[body[29]])
    ids = torch.tensor([[bos, *body[:29]]])
    with torch.no_grad():
        logits = small.model(input_ids=ids).logits[0, -1].double()
    long = -float(logits.log_softmax(-1)[body[29]])
    assert answer.extra["gain"].values[0, -1] == pytest.approx(short - long, abs=1e-4)


def test_what_does_not_fit_is_not_applicable() -> None:
    """Encoders, contexts beyond the model's positions, and prompts that are too short: NaN and the reason."""
    cases = [
        (bert, ContextGain(long=20, short=6), random_prompt(60), "language-modelling head"),
        (gpt2, ContextGain(long=200), random_prompt(60), "128 positions"),
        (gpt2, ContextGain(long=50, short=6, last=20), random_prompt(60), "fewer than 70 tokens"),
    ]
    for build, experiment, text, why in cases:
        (answer,) = experiment.run(Ask(loaded(build), (text,)))
        assert answer.head_map.isnull().all()
        assert why in answer.notes[0]


def test_short_prompts_are_left_out_and_named() -> None:
    """The others count."""
    texts = (random_prompt(20), random_prompt(40, seed=1))
    (answer,) = ContextGain(long=20, short=6, last=10).run(Ask(loaded(gpt2), texts))
    assert answer.by_prompt.sizes["prompt"] == 1
    assert any("1 of 2 prompts have fewer than 30 tokens" in note for note in answer.notes)


def test_parameters_are_checked() -> None:
    """The short context is shorter than the long one."""
    with pytest.raises(UsageError, match="must be shorter"):
        ContextGain(long=64, short=64)
    with pytest.raises(UsageError, match="last was 0"):
        ContextGain(last=0)
