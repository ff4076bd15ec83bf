"""Stability under replaced tokens: known heads, the overlap by hand, and what is refused."""

import numpy as np
import pytest
import torch
from copier import copier
from hypothesis import given
from hypothesis import strategies as st
from small_models import letters, llama

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.stability import Stability, corrupted
from probe.models import as_loaded
from probe.prompts import Prompt

WORDS = [chr(97 + a) + chr(97 + b) for a in range(6) for b in range(6)]


@given(
    tokens=st.lists(st.integers(0, 9), min_size=4, max_size=30),
    rate=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_as_many_tokens_as_asked_become_others_of_the_prompt(tokens, rate, seed):
    """Never the first, always another token, as many as the rate says, the same for the same seed."""
    given_tokens = np.array(tokens)
    if len(set(tokens)) == 1:
        with pytest.raises(InputError, match="alike"):
            corrupted(given_tokens, rate, seed, "p")
        return
    out = corrupted(given_tokens, rate, seed, "p")
    assert out[0] == tokens[0]
    assert set(out.tolist()) <= set(tokens)
    assert (out != given_tokens).sum() == min(len(tokens) - 2, max(1, round(rate * (len(tokens) - 1))))
    assert np.array_equal(out, corrupted(given_tokens, rate, seed, "p"))


def test_overlap_is_that_of_two_eager_forwards():
    """Head map and cosine are those of the rows of unchanged tokens in two plain runs."""
    model, prompt = llama(), Prompt.of("the cat sat on a mat", letters())
    answer = Stability(rate=0.2, rows=99, draws=1, sinks=0).run(
        Ask(as_loaded((model, letters())), (prompt,), seed=5)
    )[0]
    tokens = np.array(prompt.tokens)
    other = corrupted(tokens, 0.2, 5, "p")
    rows = np.flatnonzero(tokens == other)[1:]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        runs = [model(torch.tensor(one)[None], output_attentions=True).attentions for one in (tokens, other)]
    for layer, (a, b) in enumerate(zip(*runs, strict=True)):
        one, two = a[0][:, rows].double(), b[0][:, rows].double()
        np.testing.assert_allclose(
            answer.head_map.values[layer], torch.minimum(one, two).sum(-1).mean(-1), atol=1e-5
        )
        cosine = torch.nn.functional.cosine_similarity(one, two, dim=-1).mean(-1)
        np.testing.assert_allclose(answer.extra["cosine"].values[layer], cosine, atol=1e-5)
    np.testing.assert_allclose(answer.extra["without_sinks"], answer.head_map, atol=1e-5)
    assert (answer.head_map < 0.999).any()


def test_a_positional_head_is_stable_and_a_matching_head_is_not():
    """The planted previous-token head does not read tokens; the planted induction head does."""
    loaded = copier(WORDS)
    prompt = Prompt.of(" ".join(WORDS[:30] * 2), loaded.tokenizer)
    answer = Stability(rate=0.3).run(Ask(loaded, (prompt,)))[0]
    assert answer.head_map.values[0, 0] == pytest.approx(1.0, abs=1e-4)
    assert answer.head_map.values[1, 0] < 0.9
    assert answer.by_prompt is None


def test_wrong_parameters_are_refused():
    """Rates outside (0, 1), no rows, no draws."""
    for wrong in ({"rate": 0.0}, {"rate": 1.0}, {"rows": 0}, {"draws": 0}, {"sinks": -0.1}):
        with pytest.raises(UsageError, match=str(*wrong)):
            Stability(**wrong)
