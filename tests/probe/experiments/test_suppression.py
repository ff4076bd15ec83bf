"""Suppression: KL on sparse logits by its definition, laws of both divergences, and masked attention written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_models import bert, letters, llama

from probe.errors import UsageError
from probe.experiments.suppression import (
    MOST,
    TEMPERATURE,
    Sparse,
    centred,
    grouped_kl,
    sparse_kl,
    suppression,
)
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.sentences import Sentence, sentences

# Unequal, so that no tie decides which tokens are kept.
LOGITS = arrays(np.float64, (2, 9), elements=st.integers(-80, 80).map(lambda n: n / 10), unique=True).map(
    torch.from_numpy
)
TEXT = "the old cat sat down. a dog ran by it! who saw them go? then it rained. we all went home."


def _kept(row: np.ndarray) -> dict[int, float]:
    """Tokens in order of probability until their mass is enough."""
    scaled = row / TEMPERATURE
    probs = np.exp(scaled - np.logaddexp.reduce(scaled))
    kept, mass = {}, 0.0
    for token in np.argsort(-row, kind="stable")[:MOST]:
        if mass >= 0.9999:
            break
        kept[int(token)], mass = float(row[token]), mass + probs[token]
    return kept


def _by_definition(base: np.ndarray, other: np.ndarray) -> float:
    """KL on the union of kept tokens, −1e9 for a missing logit."""
    one, two = _kept(base), _kept(other)
    union = sorted({*one, *two})
    p, q = (np.array([kept.get(token, -1e9) for token in union]) / TEMPERATURE for kept in (one, two))
    p, q = p - np.logaddexp.reduce(p), q - np.logaddexp.reduce(q)
    return max(0.0, float(np.where(np.exp(p) > 0, np.exp(p) * (p - q), 0.0).sum()))


@given(LOGITS, LOGITS)
def test_sparse_kl_is_its_definition(base, other) -> None:
    """Equal to the loop over tokens, those that only one side holds included."""
    found = sparse_kl(Sparse.of(base), Sparse.of(other)).numpy()
    expected = [_by_definition(one, two) for one, two in zip(base.numpy(), other.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@given(LOGITS, LOGITS)
def test_laws_of_the_divergences(base, other) -> None:
    """Both are 0 for equal logits and never negative; grouping tokens never makes the whole divergence larger."""
    kept = Sparse.of(base)
    assert sparse_kl(kept, Sparse.of(base)).abs().max() < 1e-12
    assert grouped_kl(kept, base).abs().max() < 1e-10
    p, q = (logits.double() / TEMPERATURE for logits in (base, other))
    whole = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
    grouped = grouped_kl(kept, other)
    assert (grouped >= 0).all()
    assert (grouped <= whole + 1e-9).all()


def test_at_most_a_hundred_tokens_are_kept() -> None:
    """An even distribution over more keeps the limit; a sharp one keeps one."""
    assert (Sparse.of(torch.zeros(1, 500)).token >= 0).sum() == MOST
    sharp = torch.zeros(1, 500)
    sharp[0, 7] = 50.0
    assert Sparse.of(sharp).token[0, :2].tolist() == [7, -1]


@pytest.fixture
def small() -> LoadedModel:
    return LoadedModel(llama().double(), letters(), "small", ModelSource("given"))


def _masked_logits(loaded: LoadedModel, prompt: Prompt, hidden: Sentence | None) -> np.ndarray:
    """The model's own eager logits under a whole mask that hides one sentence's keys."""
    n = len(prompt)
    mask = torch.zeros(n, n, dtype=torch.float64).masked_fill(torch.ones(n, n).triu(1).bool(), -1e30)
    if hidden is not None:
        mask[:, hidden.start : hidden.stop] = -1e30
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = loaded.model(torch.tensor([prompt.tokens]), attention_mask=mask[None, None]).logits[0]
    loaded.model.set_attn_implementation("sdpa")
    return logits.numpy()


@pytest.mark.parametrize("kl", ["sparse", "grouped"])
def test_equals_masking_written_out(small: LoadedModel, kl: str) -> None:
    """Each cell is the mean log divergence over the tokens of the later sentence, in float64."""
    prompt = Prompt.of(TEXT, small.tokenizer)
    found = sentences(prompt)
    effects = suppression(small, prompt, found, kl)
    base = _masked_logits(small, prompt, None)
    assert effects.shape == (5, 5)
    assert np.isnan(effects[np.triu_indices(5)]).all()
    for number, source in enumerate(found[:-1]):
        logits = _masked_logits(small, prompt, source)
        for later in range(number + 1, 5):
            rows = range(found[later].start, found[later].stop)
            if kl == "sparse":
                each = [_by_definition(base[row], logits[row]) for row in rows]
            else:
                each = grouped_kl(
                    Sparse.of(torch.from_numpy(base[rows])), torch.from_numpy(logits[rows])
                ).tolist()
            assert effects[later, number] == pytest.approx(np.log(np.array(each) + 1e-9).mean(), abs=2e-4)


def test_only_what_follows_the_first_sentence_is_read(small: LoadedModel) -> None:
    """With sentences that start later, the same effects come for the same pairs."""
    prompt = Prompt.of(TEXT, small.tokenizer)
    found = sentences(prompt)
    later = suppression(small, prompt, found[2:])
    np.testing.assert_allclose(later, suppression(small, prompt, found)[2:, 2:], atol=1e-6)


def test_rows_are_centred_over_earlier_sentences() -> None:
    """A row's mean over its sources becomes 0; where nothing is before, it stays undefined."""
    effects = np.array([[np.nan, np.nan, np.nan], [-3.0, np.nan, np.nan], [-2.0, -4.0, np.nan]])
    expected = [[np.nan, np.nan, np.nan], [0.0, np.nan, np.nan], [1.0, -1.0, np.nan]]
    np.testing.assert_array_equal(centred(effects), expected)


def test_a_model_without_predictions_is_refused() -> None:
    """An encoder predicts no next token."""
    loaded = LoadedModel(bert(), letters(), "small", ModelSource("given"))
    prompt = Prompt.of(TEXT, loaded.tokenizer)
    with pytest.raises(UsageError, match="predicts no next token"):
        suppression(loaded, prompt, sentences(prompt))
