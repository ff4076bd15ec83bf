"""Row similarity against loops, heads whose answer is known, and what is refused."""

import numpy as np
import pytest
import torch
from copier import copier
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import letters, llama, t5

import probe
from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.row_similarity import RowSimilarity, focus, mean_off_diagonal, row_cosines
from probe.models import as_loaded
from probe.prompts import Prompt

WORDS = [chr(97 + a) + chr(97 + b) for a in range(6) for b in range(6)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(2, 9), window=st.integers(1, 9))
def test_cosines_are_those_of_loops(seed, n, window):
    """Every pair's cosine is taken over the kept keys that both rows see."""
    draw = np.random.default_rng(seed)
    gap = np.arange(n)[:, None] - np.arange(n)
    visible, keep = (gap >= 0) & (gap < window), draw.random((1, n)) < 0.7
    p = draw.random((1, n, n)) * visible
    found = row_cosines(torch.tensor(p), torch.tensor(visible), torch.tensor(keep))[0].numpy()
    for a in range(n):
        for b in range(n):
            both = visible[a] & visible[b] & keep[0]
            x, y = p[0, a] * both, p[0, b] * both
            size = np.linalg.norm(x) * np.linalg.norm(y)
            expected = x @ y / size if size > 0 else np.nan
            np.testing.assert_allclose(found[a, b], expected, atol=1e-9)


def test_every_pair_of_rows_on_a_model():
    """With all rows, all keys and no sink it is the mean over pairs of plain cosines of the model's eager rows."""
    model, prompt = llama(), Prompt.of("abcdefghijklm", letters())
    answer = RowSimilarity(rows=99, sinks=0, keys="all").run(Ask(as_loaded((model, letters())), (prompt,)))[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(torch.tensor([prompt.tokens]), output_attentions=True).attentions
    for layer, pattern in enumerate(patterns):
        rows = torch.nn.functional.normalize(pattern[0, :, 1:].double(), dim=-1)
        pairs = (rows @ rows.transpose(1, 2))[:, *np.triu_indices(12, 1)]
        np.testing.assert_allclose(answer.head_map.values[layer], pairs.mean(-1), atol=1e-5)
        np.testing.assert_allclose(answer.extra["with_sinks"].values[layer], pairs.mean(-1), atol=1e-5)
    np.testing.assert_equal(answer.extra["sinks"].values, 0)


def test_heads_that_ask_nothing_have_equal_rows():
    """Without queries attention is uniform: cosine 1 over common keys, and over-focus is the uniform one."""
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    answer = RowSimilarity(sinks=0).run(
        Ask(as_loaded((model, letters())), (Prompt.of("the cat sat on the mat", letters()),))
    )[0]
    np.testing.assert_allclose(answer.head_map, 1.0, atol=1e-6)
    np.testing.assert_allclose(answer.extra["over_focus"], answer.extra["over_focus_uniform"], atol=1e-6)


def test_a_head_that_looks_one_back_has_no_row_like_another():
    """The planted previous-token head's rows have nothing in common; the idle heads' are all alike."""
    loaded = copier(WORDS)
    prompt = Prompt.of(" ".join(WORDS[:30]), loaded.tokenizer)
    answer = RowSimilarity(sinks=0.2).run(Ask(loaded, (prompt,)))[0]
    assert answer.head_map.values[0, 0] < 0.05
    assert answer.head_map.values[0, 1] == pytest.approx(1.0, abs=1e-4)


def test_focus_counts_the_most_received_keys():
    """Of ten keys that are no sinks the top fifth is two; a sink's share counts nowhere."""
    column = torch.tensor([[100.0, 5, 4, 1, 1, 1, 1, 1, 1, 1, 1]])
    keep = column < 50
    assert float(focus(column, keep, 0.2)[0]) == pytest.approx(9 / 17)
    assert float(focus(column, keep, 0.01)[0]) == pytest.approx(5 / 17)
    assert torch.isnan(focus(column, torch.zeros_like(keep), 0.5)).all()
    assert torch.isnan(mean_off_diagonal(torch.full((1, 2, 2), torch.nan))).all()


def test_what_cannot_be_said_is_said():
    """A wrong parameter is refused, a model of two towers and a prompt of two tokens are told."""
    for wrong in ({"rows": 1}, {"sinks": 1.5}, {"top": 0.0}):
        with pytest.raises(UsageError, match=str(*wrong)):
            RowSimilarity(**wrong)
    report = probe.analyze((llama(), letters()), ["ab", "abcdef"], ["row_similarity"])
    assert any("fewer than 3 tokens" in note for note in report.answer("row_similarity").notes)
    assert np.isfinite(report["row_similarity"]).all()
    for model, texts in ((t5(), ("abcdef",)), (llama(), ("ab",))):
        prompts = tuple(Prompt.of(text, letters()) for text in texts)
        answer = RowSimilarity().run(Ask(as_loaded((model, letters())), prompts))[0]
        assert np.isnan(answer.head_map).all()
        assert answer.notes[0].startswith("not applicable")
