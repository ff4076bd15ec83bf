"""Top-k overlap between layers: known selections, chance, windows, and short prompts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import letters, llama, mistral

import probe
from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.topk_overlap import TopkOverlap, selected
from probe.models import as_loaded
from probe.prompts import Prompt

TEXT = "the quick brown fox jumps over the lazy dog and runs away. " * 2


def answer_of(model, one, *texts):
    """The answer over some texts."""
    prompts = tuple(Prompt.of(text, letters(), id=f"p{n}") for n, text in enumerate(texts))
    return one.run(Ask(as_loaded((model, letters())), prompts))[0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 12), k=st.integers(1, 12))
def test_k_keys_are_selected_earliest_first(seed, n, k):
    """The selection is that of a stable sort; equals are taken in the order of the keys."""
    p = np.random.default_rng(seed).integers(0, 4, (2, n)) / 4
    found = selected(torch.tensor(p), k).numpy()
    for row in range(2):
        expected = sorted(range(n), key=lambda j: (-p[row, j], j))[:k]
        assert np.flatnonzero(found[row]).tolist() == sorted(expected)


def test_selections_are_those_of_eager_rows():
    """Layer × layer and head × previous layer equal loops over the model's own weights."""
    model, k = llama(num_hidden_layers=3), 6
    answer = answer_of(model, TopkOverlap(k=k, rows=999, margin=3), TEXT)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(torch.tensor([Prompt.of(TEXT, letters()).tokens]), output_attentions=True).attentions
    rows = range(3 * k, patterns[0].shape[2])

    def top(p, i):
        return set(p[i, : i + 1].double().topk(k).indices.tolist())

    for a in range(3):
        for b in range(3):
            shares = [len(top(patterns[a][0].sum(0), i) & top(patterns[b][0].sum(0), i)) / k for i in rows]
            assert answer.extra["layers"].values[a, b] == pytest.approx(np.mean(shares), abs=0.01)
    for head in range(4):
        shares = [len(top(patterns[2][0, head], i) & top(patterns[1][0].sum(0), i)) / k for i in rows]
        assert answer.head_map.values[2, head] == pytest.approx(np.mean(shares), abs=0.01)
    assert np.isnan(answer.head_map.values[0]).all()
    chance = np.mean([k / (i + 1) for i in rows])
    np.testing.assert_allclose(answer.extra["chance"], chance, atol=1e-9)
    assert answer.extra["by_gap"].values[1] == pytest.approx(answer.extra["layers"].values[0, 2])


def test_uniform_layers_select_the_same_keys_and_the_front_can_be_left_out():
    """Without queries all layers take the earliest keys; skipped positions are never among them."""
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    answer = answer_of(model, TopkOverlap(k=5, skip=3), TEXT)
    np.testing.assert_allclose(answer.extra["layers"], 1.0)
    np.testing.assert_allclose(answer.head_map.values[1], 1.0)


def test_windows_bound_what_is_selected():
    """In a window of 8 keys, k=3 has a chance of 3/8, and k=4 has no row with twice as many keys."""
    answer = answer_of(mistral(), TopkOverlap(k=3, rows=999), TEXT)
    chance = np.mean([3 / min(i + 1, 8) for i in range(6, len(TEXT))])
    np.testing.assert_allclose(answer.extra["chance"], chance)
    none = answer_of(mistral(), TopkOverlap(k=4), TEXT)
    assert np.isnan(none.head_map).all()
    assert "in every layer" in none.notes[0]


def test_short_prompts_are_left_out_by_name():
    """A prompt too short for k is named; the others count."""
    answer = answer_of(llama(), TopkOverlap(k=20), TEXT, "short")
    assert any("'p1' (5)" in note for note in answer.notes)
    assert answer.by_prompt.sizes["prompt"] == 1
    report = probe.analyze((llama(), letters()), "short", ["topk_overlap"])
    assert any("not applicable" in note for note in report.answer("topk_overlap").notes)
    for wrong in ({"k": 0}, {"rows": 0}, {"skip": -1}, {"margin": 0}):
        with pytest.raises(UsageError, match=str(*wrong)):
            TopkOverlap(**wrong)
