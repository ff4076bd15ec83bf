"""Gradient × attention equals the dense rule on eager weights with their own gradients."""

import numpy as np
import pytest
import tiny
import torch
from given import given, prompt
from torch import nn

from probe.errors import UsageError
from probe.experiments.attention_saliency import AttentionSaliency, correlations
from probe.experiments.base import Ask
from probe.experiments.gradient_attention import GradientAttention


def dense(model: nn.Module, ids: torch.Tensor, of: str) -> np.ndarray:
    """R - I of the last row before every layer, from autograd's gradients of the eager weights."""
    model.set_attn_implementation("eager")
    out = model(ids, output_attentions=True)
    logits = out.logits[0, -1]
    answer = (logits if of == "logit" else logits.log_softmax(-1))[logits.argmax()]
    gradients = torch.autograd.grad(answer, out.attentions)
    rows, product = [], torch.eye(ids.shape[1], dtype=torch.float64)
    for a, g in zip(reversed(out.attentions), reversed(gradients), strict=True):
        mixed = torch.relu(g[0] * a[0]).double().mean(0).detach()
        product = product + product @ mixed
        rows.append((product[-1] - torch.eye(ids.shape[1])[-1]).numpy())
    return np.stack(rows[::-1])


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, tiny.gpt_oss])
@pytest.mark.parametrize("of", ["logit", "log_prob"])
def test_equals_the_dense_rule(make: object, of: str) -> None:
    """With grouped heads, windows and learned sinks, over more rows than one block."""
    model, one = make(), prompt(140)
    answer = GradientAttention(of=of).run(Ask(given(model), (one,)))[0]
    expected = dense(make(), torch.tensor([one.tokens]), of)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(answer.token_maps[0] / scale, expected / scale, rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(answer.head_map, expected.sum(-1) ** 2 / (expected**2).sum(-1), rtol=1e-3)


def test_weights_get_no_gradient_and_the_mode_stays() -> None:
    """The model is as it was: no gradients, no changed flags, training mode restored."""
    model = tiny.llama().train()
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    GradientAttention().run(Ask(given(model), (prompt(9),)))
    assert model.training
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("experiment", [GradientAttention, AttentionSaliency])
def test_where_gradients_cannot_pass_it_is_refused(experiment: object) -> None:
    """Inference mode and quantised models are named; encoders have no answer to explain."""
    model, one = tiny.llama(), prompt(9)
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        experiment().run(Ask(given(model), (one,)))
    model.is_quantized = True
    with pytest.raises(UsageError, match="quantised"):
        experiment().run(Ask(given(model), (one,)))
    answer = experiment().run(Ask(given(tiny.bert()), (one,)))[0]
    assert np.isnan(answer.head_map).all()
    assert "not applicable" in answer.notes[0]


def test_correlation_of_known_rows() -> None:
    """A row that is the saliency, its opposite, its order alone, and one that does not vary."""
    saliency = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    rows = np.stack([saliency, -saliency, np.exp(saliency), np.ones(5)])
    plain, ranked = (correlations(rows, saliency, ranked=ranked) for ranked in (False, True))
    np.testing.assert_allclose(ranked, [1, -1, 1, np.nan], atol=1e-12)
    np.testing.assert_allclose(plain[[0, 1, 3]], [1, -1, np.nan], atol=1e-12)
    assert plain[2] < 0.9
