"""Rollout equals the product of the eager matrices, computed as one row."""

import numpy as np
import pytest
import tiny
import torch
from given import given, prompt
from torch import nn

import probe
from probe.errors import UsageError
from probe.experiments.attention_saliency import AttentionSaliency
from probe.experiments.base import Ask
from probe.experiments.explained import Layer, read_layers, row_chain
from probe.experiments.gradient_attention import GradientAttention
from probe.experiments.rollout import Rollout, step
from probe.interventions import zero


def dense(model: nn.Module, ids: torch.Tensor, row: int) -> np.ndarray:
    """The row of the product of every layer's rownorm(mean_h A + I) down to each layer."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(ids, output_attentions=True).attentions
    out, product = [], torch.eye(ids.shape[1], dtype=torch.float64)
    for a in reversed(layers):
        mixed = a[0].double().mean(0) + torch.eye(ids.shape[1])
        product = product @ (mixed / mixed.sum(-1, keepdim=True))
        out.append(product[row].numpy())
    return np.stack(out[::-1])


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, tiny.gpt_oss, tiny.bert])
@pytest.mark.parametrize("row", [-1, 0, 7])
def test_equals_the_dense_product(make: object, row: int) -> None:
    """With grouped heads, windows, learned sinks and attention both ways; rows from either end."""
    model, one = make(), prompt(150)
    answer = Rollout(row=row).run(Ask(given(model), (one,)))[0]
    expected = dense(make(), torch.tensor([one.tokens]), row)
    assert answer.tower == ("encoder" if make is tiny.bert else "decoder")
    np.testing.assert_allclose(answer.token_maps[0], expected, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(answer.token_maps[0].sum("token"), 1.0, rtol=1e-5)
    np.testing.assert_allclose(answer.head_map, 1 / (expected**2).sum(-1), rtol=1e-4)


def test_no_map_of_all_rows_is_made() -> None:
    """Whatever is asked of the patterns, it is at most a block of rows."""
    layers = read_layers(given(tiny.llama()), prompt(300))
    asked = []

    class Watched(Layer):
        def rows(self, index: torch.Tensor) -> torch.Tensor:
            asked.append(len(index))
            return super().rows(index)

    row_chain([Watched(one.number, one.scores, one.layout) for one in layers], 299, step)
    assert max(asked) <= 128
    assert sum(asked) == 1 + 300  # the last layer's one row, then all rows of the first


def test_a_row_beyond_the_prompt_is_refused() -> None:
    """The error names the rows that there are."""
    with pytest.raises(UsageError, match="-6 to 5"):
        Rollout(row=6).run(Ask(given(tiny.llama()), (prompt(6),)))


@pytest.mark.parametrize("experiment", [Rollout, GradientAttention, AttentionSaliency])
def test_an_edited_model_is_not_applicable(experiment: type) -> None:
    """Patterns would be computed again without the edit: no number, and the reason names the edit."""
    model = given(tiny.llama())
    with probe.edit(model, [zero(heads=["L0.H0"])]):
        answer = experiment().run(Ask(model, (prompt(6),)))[0]
        model.model(tiny.tokens(1, 6))
    assert np.isnan(answer.head_map).all()
    assert "without zero" in answer.notes[0]


@pytest.mark.parametrize(("model", "why"), [(tiny.t5, "one tower"), (tiny.bloom, "bypasses")])
def test_what_cannot_be_read_is_not_applicable(model: object, why: str) -> None:
    """An encoder-decoder has two prompts; a model outside the registry shows no q and k."""
    answer = Rollout().run(Ask(given(model()), (prompt(6),)))[0]
    assert why in answer.notes[0]
