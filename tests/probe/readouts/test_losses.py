"""Losses are those of the model's own logits, of which never many rows are held."""

from typing import Any

import pytest
import small_models
import torch
from ablated import dense_losses
from subjects.catalogue import SUBJECTS
from torch import Tensor, nn

from probe.errors import BudgetError
from probe.readouts.logits import next_token_logits
from probe.readouts.losses import token_losses

# Softcapped, scaled and divided logits, tied and biased heads, learned positions, experts, state.
HEADS = {
    "gemma2": "head", "granite": "head", "cohere": "head", "gpt2": "head", "gpt-oss": "head", "phi": "head",
    "rwkv": "head", "opt": "repeated", "llama4-chunked": "repeated",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_the_cross_entropy_of_the_models_own_logits(name: str) -> None:
    """In a padded batch, whatever the model does to its logits, with never more rows of them than were allowed."""
    subject = SUBJECTS[name]
    model = subject.model()
    inputs = subject.inputs(model, 2, 12, left_padding=subject.padding)
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    with torch.no_grad():
        whole = model(**inputs).logits
    rows: list[int] = []
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_hook(lambda _, __, out: rows.append(out.shape[0] * out.shape[1]))
    found = token_losses(model, inputs, rows=7)
    handle.remove()
    assert next_token_logits(model, inputs).how == HEADS[name]
    assert max(rows) <= 7
    for row, tokens in enumerate(inputs["input_ids"]):
        known = real[row].nonzero()[:, 0]
        want = dense_losses(whole[row, known], tokens[known])
        torch.testing.assert_close(found[row, known[1:]], want, rtol=0, atol=2e-5)
        assert found[row].isnan().sum() == 12 - len(known) + 1


def test_softcapped_logits_are_really_capped() -> None:
    """The subject above would not notice a forgotten cap if the cap did nothing."""
    model: Any = SUBJECTS["gemma2"].model()
    inputs = SUBJECTS["gemma2"].inputs(model)
    capped = token_losses(model, inputs)
    model.config.final_logit_softcapping = None
    assert (capped - token_losses(model, inputs)).abs().nanmean() > 1e-3


def test_whole_logits_that_would_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without logits_to_keep is told what it would cost."""

    class Plain(nn.Module):
        """The small model behind a forward of fewer keywords."""

        def __init__(self) -> None:
            super().__init__()
            self.inner: Any = small_models.llama()

        def get_output_embeddings(self) -> Any:
            return self.inner.lm_head

        def forward(self, input_ids: Tensor) -> Any:
            return self.inner(input_ids)

    ids = torch.randint(2, 50, (1, 9))
    model = Plain().eval()
    found, want = (token_losses(one, {"input_ids": ids}) for one in (model, model.inner))
    torch.testing.assert_close(found, want, equal_nan=True)
    monkeypatch.setattr("probe.readouts.logits.MOST_WHOLE", 9 * 57 * 4 - 1)
    with pytest.raises(BudgetError, match=r"2,052 bytes"):
        token_losses(model, {"input_ids": ids})
