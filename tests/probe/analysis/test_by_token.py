"""What an edit moves token by token, against losses and divergences written out in full."""

import numpy as np
import pytest
import torch
from small_models import bert, letters, llama

import probe
from probe.analysis.ablation.by_token import token_divergence
from probe.errors import InputError, UsageError
from probe.interventions import zero

TEXT = "the cat sat on the mat. the cat sat."


def log_probs(model, edits=()):
    """Log-probabilities of the next token at every position, float64."""
    ids = torch.tensor([letters()(TEXT)["input_ids"]])
    with torch.no_grad():
        if not edits:
            return model(ids).logits[0].double().log_softmax(-1)
        with probe.edit(model, list(edits)):
            return model(ids).logits[0].double().log_softmax(-1)


def test_losses_and_divergence_are_those_of_whole_logits():
    """In nats; the first token has no loss, and every position has a divergence."""
    model, edits = llama(), [zero(heads=["L0.H1", "L1.H2"])]
    found = token_divergence((model, letters()), TEXT, edits)
    base, edited = log_probs(model), log_probs(model, edits)
    told = torch.tensor(letters()(TEXT)["input_ids"])[1:, None]
    for values, logs in ((found.base, base), (found.edited, edited)):
        assert np.isnan(values[0])
        np.testing.assert_allclose(values[1:], -logs[:-1].gather(1, told)[:, 0].numpy(), atol=2e-5)
    np.testing.assert_allclose(found.kl, (base.exp() * (base - edited)).sum(-1).numpy(), atol=2e-5)
    assert found.to_json()["base"][0] is None
    assert len(found.str_tokens) == len(found.kl) == len(TEXT)


def test_rows_before_the_edit_do_not_move():
    """An edit of late rows leaves the prediction of earlier ones."""
    found = token_divergence((llama(), letters()), TEXT, ["zero:heads=L0.H1,queries=20..30"])
    assert found.kl[:20].max() < 1e-6 < found.kl[20]


def test_wrong_calls_are_refused():
    """No edit, a model that predicts nothing, a prompt that is none."""
    with pytest.raises(UsageError):
        token_divergence((llama(), letters()), TEXT, [])
    with pytest.raises(UsageError, match="predicts no next token"):
        token_divergence((bert(), letters()), TEXT, ["zero:heads=enc.L0.H1"])
    with pytest.raises(InputError, match="give text or a Prompt"):
        token_divergence((llama(), letters()), 3, ["zero:heads=L0.H1"])
