"""What edited heads are worth: losses and divergence against dense computation."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
import torch.nn.functional as functional
from ablated import EDITED, TEXTS, dense_losses, letters_model, own_logits, without
from torch import nn

import probe
from probe.analysis.ablation.comparing import divergence_of
from probe.interventions import guidance, patch, recording, scale, zero
from probe.models import as_loaded
from probe.prompts import Prompt
from probe.seam.stage import Stage


def test_divergence_is_that_of_the_definition() -> None:
    """Σ p (ln p − ln q) in float64, 0 for equal ones, and a token without mass counts nothing."""
    p, q = torch.rand(2, 5, 17, dtype=torch.float64).softmax(-1)
    found = divergence_of(p.log(), q.log())
    torch.testing.assert_close(
        found, functional.kl_div(q.log(), p.log(), log_target=True, reduction="none").sum(-1)
    )
    assert (divergence_of(p.log(), p.log()) == 0).all()
    half = torch.tensor([0.5, 0.5, 0.0]).log()
    assert divergence_of(half, torch.tensor([0.25, 0.5, 0.25]).log()).item() == pytest.approx(
        0.5 * math.log(2)
    )


def test_measures_equal_those_of_a_model_whose_weights_were_edited() -> None:
    """Loss, perplexity, KL and top changes of zeroed heads: per prompt, and in total over all positions alike."""
    found = probe.ablate(letters_model(), TEXTS, [zero(heads=EDITED)], new_tokens=0, controls=0)
    tokenizer = small_models.letters()
    losses, divergences, changes = [], [], []
    for number, text in enumerate(TEXTS):
        prompt = Prompt.of(text, tokenizer)
        base, edited = own_logits(small_models.llama(), prompt), own_logits(without(EDITED), prompt)
        losses.append(dense_losses(edited, torch.tensor(prompt.tokens)))
        p, q = base.log_softmax(-1), edited.log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1))
        changes.append((p.argmax(-1) != q.argmax(-1)).double())
        one = found.edited.prompts[number]
        assert one.loss == pytest.approx(losses[-1].mean().item(), abs=1e-5)
        assert one.kl_to_base == pytest.approx(divergences[-1].mean().item(), abs=1e-5)
        assert one.top_changes == pytest.approx(changes[-1].mean().item())
    total = found.to_json()["runs"]["edited"]
    assert total["loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)
    assert total["perplexity"] == pytest.approx(math.exp(total["loss"]))
    assert total["kl_to_base"] == pytest.approx(torch.cat(divergences).mean().item(), abs=1e-5)
    assert total["top_changes"] == pytest.approx(torch.cat(changes).mean().item())
    assert 0 < total["top_changes"] < 1
    assert (found.total("base", "kl_to_base"), found.total("base", "top_changes")) == (0.0, 0.0)


def test_interventions_compose_in_their_order() -> None:
    """Doubling twice is four times; a spec and an object are the same."""
    heads = "+".join(EDITED)
    twice = probe.ablate(
        letters_model(), TEXTS[0], [f"scale:heads={heads},alpha=2"] * 2, controls=0, new_tokens=0
    )
    once = probe.ablate(letters_model(), TEXTS[0], [scale(heads=EDITED, alpha=4)], controls=0, new_tokens=0)
    assert twice.total("edited", "loss") == pytest.approx(once.total("edited", "loss"), abs=1e-6)
    assert twice.interventions == (f"scale:heads={heads},alpha=2",) * 2


def test_the_loss_of_an_answer_is_that_of_writing_it() -> None:
    """As one forward over prompt and answer would give it, for the base and for edited weights."""
    model, tokenizer = letters_model()
    prompt = Prompt.of("the sea is", tokenizer, answer="blue.", id="sea")
    found = probe.ablate(
        (model, tokenizer), [prompt, TEXTS[0]], [zero(heads=EDITED)], new_tokens=0, controls=0
    )
    joined = Prompt.of("the sea is blue.", tokenizer)
    tokens = torch.tensor(joined.tokens)
    for run, surgery in (("base", small_models.llama()), ("edited", without(EDITED))):
        want = dense_losses(own_logits(surgery, joined), tokens)[len(prompt) - 1 :].mean().item()
        assert found.total(run, "answer_loss") == pytest.approx(want, abs=1e-5)
    record = found.to_json()["by_prompt"]
    assert (record[0]["answer_tokens"], record[1]["answer_tokens"]) == (6, 0)
    assert record[1]["base"]["answer_loss"] is None


def test_edits_of_decode_steps_show_in_stepwise_losses() -> None:
    """Without it a note says so; with it every row but the first is edited."""
    late = zero(heads=EDITED, phase="decode")
    plain = probe.ablate(letters_model(), TEXTS[0], [late], controls=0, new_tokens=4)
    assert plain.total("edited", "kl_to_base") == 0.0
    assert any("acts in decode steps alone" in note for note in plain.to_json()["notes"])
    steps = probe.ablate(letters_model(), TEXTS[0], [late], controls=0, new_tokens=0, stepwise=True)
    rows = zero(heads=EDITED, queries=(1, 1000))
    want = probe.ablate(letters_model(), TEXTS[0], [rows], controls=0, new_tokens=0)
    for measure in ("loss", "kl_to_base", "top_changes"):
        assert steps.total("edited", measure) == pytest.approx(want.total("edited", measure), abs=1e-5)
    assert not any("decode steps" in note for note in steps.to_json()["notes"])


class _Louder:
    """An intervention on the logits themselves: one token more likely, at every position."""

    name = "louder"

    def attach(self, stage: Stage) -> Callable[[], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            stage.fired("lm_head")
            bias = torch.zeros(output.logits.shape[-1])
            bias[5] = 3.0
            output["logits"] = output.logits + bias
            return output

        return stage.model.register_forward_hook(hook).remove


def test_edits_of_logits_are_in_the_losses() -> None:
    """They come after the head, so the head alone would not show them."""
    found = probe.ablate(letters_model(), TEXTS[0], [_Louder()], new_tokens=0)
    prompt = Prompt.of(TEXTS[0], small_models.letters())
    logits = own_logits(small_models.llama(), prompt)
    logits[:, 5] += 3.0
    want = dense_losses(logits, torch.tensor(prompt.tokens)).mean().item()
    assert found.total("edited", "loss") == pytest.approx(want, abs=1e-5)
    assert found.to_json()["runs"]["control"] is None
    assert any("louder has none" in note for note in found.provenance.notes)


def test_guided_logits_are_in_the_losses() -> None:
    """Even where guidance moves single rows alone: logits + w · (logits - edited logits)."""
    edit = zero(heads=["L1.H2"], queries=(3, 5))
    found = probe.ablate(letters_model(), TEXTS[0], [guidance([edit], w=2.0)], new_tokens=0, controls=0)
    prompt = Prompt.of(TEXTS[0], small_models.letters())
    base, edited = own_logits(small_models.llama(), prompt), own_logits(without(["L1.H2"]), prompt)
    moved = base.clone()
    moved[3:5] = base[3:5] + 2.0 * (base[3:5] - edited[3:5])
    want = dense_losses(moved, torch.tensor(prompt.tokens)).mean().item()
    assert found.total("edited", "loss") == pytest.approx(want, abs=1e-5)
    assert abs(found.total("edited", "loss") - found.total("base", "loss")) > 1e-3


def test_values_kept_per_prompt_go_to_their_own_prompt() -> None:
    """A patch from each prompt into itself changes nothing; from the first into the second it does."""
    loaded = as_loaded(letters_model())
    prompts = [Prompt.of(text, loaded.tokenizer) for text in ("the sea is blue.", "a fox runs away")]
    prompts[1] = prompts[1].truncate(15)
    prompts[0] = prompts[0].truncate(15)
    runs = [recording(loaded, one) for one in (prompts, prompts[:1])]
    own, other = (
        probe.ablate(loaded, prompts, [patch(heads=EDITED, source=run)], new_tokens=0, controls=0)
        for run in runs
    )
    assert own.edited.values("kl_to_base") == pytest.approx([0.0, 0.0], abs=1e-6)
    assert other.edited.values("kl_to_base")[1] > 1e-3


def test_one_prompt_has_no_interval_and_json_no_nan(tmp_path: Path) -> None:
    """Null and said; the saved file is the object; a prompt of one token has divergence but no loss."""
    model, tokenizer = letters_model()
    found = probe.ablate((model, tokenizer), "a", [zero(heads=["L0.H0"])], controls=1, out=tmp_path / "run")
    text = (tmp_path / "run" / "ablation.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=pytest.fail)
    assert set(record) >= {"schema", "model", "intervention", "runs", "by_prompt", "ci", "provenance"}
    assert set(record["runs"]) == {"base", "edited", "control"}
    assert record["runs"]["edited"]["loss"] is None
    assert record["runs"]["edited"]["kl_to_base"] >= 0
    assert record["ci"]["edited"]["loss"] is None
    assert "at least two prompts" in record["ci"]["note"]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["ablation.json"]
    frame = found.to_frame()
    assert list(frame["run"]) == ["base", "edited", "control"]
    assert frame["positions"].tolist() == [1, 1, 1]


def test_the_model_is_as_it_was() -> None:
    """Its logits, its training mode and its hooks."""
    model, tokenizer = letters_model()
    model.train()
    ids = torch.tensor([[3, 4, 5, 6]])
    before = model(ids).logits
    probe.ablate((model, tokenizer), TEXTS[0], [zero(heads=EDITED)], controls=1, new_tokens=2)
    assert model.training
    assert torch.equal(model(ids).logits, before)
    assert not model._forward_hooks
    assert not model.model._forward_hooks
