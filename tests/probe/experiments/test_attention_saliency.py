"""Attention against saliency equals scipy's correlations of eager rows with autograd's gradients."""

import numpy as np
import pytest
import tiny
import torch
from given import given, prompt
from scipy.stats import pearsonr, spearmanr

from probe.experiments.attention_saliency import AttentionSaliency
from probe.experiments.base import Ask


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
@pytest.mark.parametrize("saliency", ["gradient", "input_x_gradient"])
def test_equals_eager_rows_and_gradients(make: object, saliency: str) -> None:
    """Two prompts; in a window, only over the keys that the last row sees."""
    prompts = (prompt(13, "one"), prompt(17, "two"))
    answer = AttentionSaliency(saliency=saliency, correlation="spearman").run(Ask(given(make()), prompts))[0]
    expected: dict[str, list[np.ndarray]] = {"pearson": [], "spearman": [], "spearman_without_first": []}
    for one in prompts:
        model = make(attn_implementation="eager")
        embedded = model.get_input_embeddings()(torch.tensor([one.tokens])).detach().requires_grad_(True)
        out = model(inputs_embeds=embedded, output_attentions=True)
        (gradient,) = torch.autograd.grad(out.logits[0, -1].max(), embedded)
        each = gradient[0].norm(dim=-1) if saliency == "gradient" else (gradient * embedded)[0].sum(-1).abs()
        each = each.detach().double().numpy()
        rows = torch.stack([a[0, :, -1] for a in out.attentions]).detach().double().numpy()
        found = {name: np.zeros(rows.shape[:2]) for name in expected}
        for layer, head in np.ndindex(*rows.shape[:2]):
            row = rows[layer, head]
            seen = np.flatnonzero(row > 0)
            later = seen[seen > 0]
            found["pearson"][layer, head] = pearsonr(row[seen], each[seen])[0]
            found["spearman"][layer, head] = spearmanr(row[seen], each[seen])[0]
            found["spearman_without_first"][layer, head] = spearmanr(row[later], each[later])[0]
        for name, values in found.items():
            expected[name].append(values)
    for name, values in expected.items():
        np.testing.assert_allclose(answer.extra[name], np.mean(values, 0), atol=1e-4, err_msg=name)
    np.testing.assert_allclose(answer.head_map, answer.extra["spearman"])
    assert answer.by_prompt is not None
    np.testing.assert_allclose(answer.by_prompt, np.stack(expected["spearman"]), atol=1e-4)


def test_short_prompts_are_left_out() -> None:
    """Too few tokens give no correlation: told, not counted."""
    answer = AttentionSaliency().run(Ask(given(tiny.llama()), (prompt(3, "short"), prompt(9, "long"))))[0]
    assert answer.by_prompt is not None
    assert answer.by_prompt["prompt"].values.tolist() == ["long"]
    assert any("'short' (3)" in note for note in answer.notes)
    nothing = AttentionSaliency().run(Ask(given(tiny.llama()), (prompt(3, "short"),)))[0]
    assert np.isnan(nothing.head_map).all()
