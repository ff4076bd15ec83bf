"""Texts that a model writes with heads edited: those of an edited generate, with shared random numbers."""

import pytest
import small_models
import torch
from ablated import EDITED, TEXTS, letters_model, without

import probe
from probe.analysis.continuation import Decoding
from probe.interventions import scale, zero
from probe.prompts import Prompt


def test_continuations_are_those_of_an_edited_generate() -> None:
    """Greedy, whatever the model's own generation settings say; the first difference is told."""
    model, tokenizer = letters_model()
    model.generation_config.repetition_penalty = 5.0
    found = probe.ablate((model, tokenizer), TEXTS[0], [zero(heads=EDITED)], new_tokens=12, controls=1)
    prompt = Prompt.of(TEXTS[0], tokenizer)
    ids = torch.tensor([prompt.tokens])
    for run, surgery in ((found.base, small_models.llama()), (found.edited, without(EDITED))):
        want = surgery.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        made = run.prompts[0].continuation
        assert made is not None
        assert list(made.tokens) == want[0, ids.shape[1] :].tolist()
        with torch.no_grad():
            rows = surgery(want).logits[0, ids.shape[1] - 1 : -1].softmax(-1)
        assert made.probs == pytest.approx(
            rows.gather(-1, want[0, ids.shape[1] :, None])[:, 0].tolist(), abs=1e-5
        )
    base, edited = found.base.prompts[0].continuation, found.edited.prompts[0].continuation
    assert base is not None
    assert edited is not None
    at = next((i for i, (a, b) in enumerate(zip(base.tokens, edited.tokens, strict=False)) if a != b), None)
    assert found.to_json()["by_prompt"][0]["edited"]["continuation_differs_at"] == at


def test_a_text_without_room_is_not_continued() -> None:
    """Losses are measured all the same, and a line says why there is no text."""
    found = probe.ablate(letters_model(), "a" * 128, [zero(heads=["L0.H0"])], controls=0)
    assert found.base.prompts[0].continuation is None
    assert found.total("edited", "loss") > 0
    assert any("no positions are left" in note for note in found.provenance.notes)


def test_sampled_texts_share_their_random_numbers() -> None:
    """An edit that does nothing writes the very same text; a seed gives the same text again, another one another."""
    how = Decoding(30, temperature=1.0)
    same = probe.generate(letters_model(), TEXTS[0], [scale(heads=EDITED, alpha=1.0)], decoding=how, seed=3)
    assert same.differs_at("edited") is None
    again = probe.generate(
        letters_model(), TEXTS[0], [zero(heads=EDITED)], decoding=how, seed=3, control=True
    )
    assert again.runs["base"].tokens == same.runs["base"].tokens
    other = probe.generate(letters_model(), TEXTS[0], [zero(heads=EDITED)], decoding=how, seed=4)
    assert other.runs["base"].tokens != same.runs["base"].tokens
    assert set(again.to_json()["runs"]) == {"base", "edited", "control"}
    assert len(again.control_heads) == 2
    assert not set(again.control_heads) & set(EDITED)


def test_text_is_continued_by_an_encoder_decoder_too() -> None:
    """The tokens are the decoder's."""
    pair = (small_models.t5(), small_models.letters())
    found = probe.generate(pair, TEXTS[0], ["scale:heads=cross.L0.H1,alpha=-3"], decoding=None)
    ids = torch.tensor([Prompt.of(TEXTS[0], pair[1]).tokens])
    want = pair[0].generate(ids, max_new_tokens=20, do_sample=False)[0, 1:]
    assert list(found.runs["base"].tokens) == want.tolist()
