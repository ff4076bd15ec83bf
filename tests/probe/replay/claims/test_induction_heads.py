"""On a model whose induction head is known, masking it costs where the text repeats and nothing elsewhere."""

import numpy as np
import pytest
import torch
from copier import copier

from probe.interventions import zero
from probe.models import LoadedModel
from probe.prompts import Prompt, repeated_tokens
from probe.replay.claims import induction_heads
from probe.replay.heads import highest

WORDS = [f"{a}{b}" for a in "bcdfghjklmnp" for b in "aeiou"]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return copier(WORDS)


def test_the_induction_head_is_found_and_its_loss_is_in_the_second_saying(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L1.H0 has the highest score; without it the second saying is guessed, the first was guessed anyway."""
    monkeypatch.setattr(induction_heads, "HALF", 20)
    scores = induction_heads._scores(model)
    assert highest(scores, 1) == ["L1.H0"]
    (prompt,) = repeated_tokens(model.tokenizer, length=20, count=1, seed=7)
    base, masked, other = induction_heads._halves(model, prompt, [zero(["L1.H0"]), zero(["L1.H1"])])
    guess = np.log(len(model.tokenizer))
    assert base[1] < base[0] - 0.3
    assert masked[1] > base[1] + 0.3
    assert masked == pytest.approx([guess, guess], abs=1e-3)
    assert other == pytest.approx(base, abs=1e-6)


def test_both_sayings_leave_their_first_token_out(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means over HALF - 1 tokens of each; a token in front of both belongs to neither."""
    monkeypatch.setattr(induction_heads, "HALF", 3)
    monkeypatch.setattr(induction_heads, "losses", lambda *_: torch.tensor([float("nan"), 9, 1, 3, 9, 5, 7]))
    prompt = Prompt.of_tokens([1, 2, 3, 4, 2, 3, 4])
    assert induction_heads._halves(model, prompt, []) == [[2.0, 6.0]]
