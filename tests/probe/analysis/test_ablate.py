"""What edited heads are worth: losses, divergence and texts against dense computation, controls and intervals."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
import torch.nn.functional as functional
from subjects.catalogue import SUBJECTS
from torch import Tensor, nn

import probe
from probe.analysis.ablation.comparing import divergence_of
from probe.analysis.ablation.controls import draw_controls, heads_of
from probe.analysis.ablation.intervals import intervals
from probe.errors import BudgetError, InputError, InterventionError, UnknownNameError, UsageError
from probe.interventions import guidance, patch, recording, scale, zero
from probe.interventions.target import Target
from probe.models import as_loaded
from probe.prompts import Prompt
from probe.readouts.logits import next_token_logits
from probe.readouts.losses import token_losses
from probe.seam.stage import Stage
from probe.seam.verify import verify

EDITED = ["L0.H1", "L1.H2"]
TEXTS = ["the quick brown fox jumps.", "Over the lazy dog, again and again"]


def _pair(**changes: Any) -> tuple[Any, Any]:
    return small_models.llama(**changes), small_models.letters()


def _without(heads: list[str]) -> Any:
    """The small model with the columns of the output projection zeroed that read these heads."""
    model: Any = small_models.llama()
    width = model.config.hidden_size // model.config.num_attention_heads
    for head in map(probe.HeadId.parse, heads):
        weight = model.model.layers[head.layer].self_attn.o_proj.weight
        weight.data[:, head.head * width : (head.head + 1) * width] = 0.0
    return model


def _logits(model: Any, prompt: Prompt) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.double()(torch.tensor([prompt.tokens])).logits[0]
    return logits


def _dense_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(logits[:-1].double(), tokens[1:], reduction="none")


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
        want = _dense_losses(whole[row, known], tokens[known])
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
    found = probe.ablate(_pair(), TEXTS, [zero(heads=EDITED)], new_tokens=0, controls=0)
    tokenizer = small_models.letters()
    losses, divergences, changes = [], [], []
    for number, text in enumerate(TEXTS):
        prompt = Prompt.of(text, tokenizer)
        base, edited = _logits(small_models.llama(), prompt), _logits(_without(EDITED), prompt)
        losses.append(_dense_losses(edited, torch.tensor(prompt.tokens)))
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
    twice = probe.ablate(_pair(), TEXTS[0], [f"scale:heads={heads},alpha=2"] * 2, controls=0, new_tokens=0)
    once = probe.ablate(_pair(), TEXTS[0], [scale(heads=EDITED, alpha=4)], controls=0, new_tokens=0)
    assert twice.total("edited", "loss") == pytest.approx(once.total("edited", "loss"), abs=1e-6)
    assert twice.interventions == (f"scale:heads={heads},alpha=2",) * 2


def test_continuations_are_those_of_an_edited_generate() -> None:
    """Greedy, whatever the model's own generation settings say; the first difference is told."""
    model, tokenizer = _pair()
    model.generation_config.repetition_penalty = 5.0
    found = probe.ablate((model, tokenizer), TEXTS[0], [zero(heads=EDITED)], new_tokens=12, controls=1)
    prompt = Prompt.of(TEXTS[0], tokenizer)
    ids = torch.tensor([prompt.tokens])
    for run, surgery in ((found.base, small_models.llama()), (found.edited, _without(EDITED))):
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


def test_the_loss_of_an_answer_is_that_of_writing_it() -> None:
    """As one forward over prompt and answer would give it, for the base and for edited weights."""
    model, tokenizer = _pair()
    prompt = Prompt.of("the sea is", tokenizer, answer="blue.", id="sea")
    found = probe.ablate(
        (model, tokenizer), [prompt, TEXTS[0]], [zero(heads=EDITED)], new_tokens=0, controls=0
    )
    joined = Prompt.of("the sea is blue.", tokenizer)
    tokens = torch.tensor(joined.tokens)
    for run, surgery in (("base", small_models.llama()), ("edited", _without(EDITED))):
        want = _dense_losses(_logits(surgery, joined), tokens)[len(prompt) - 1 :].mean().item()
        assert found.total(run, "answer_loss") == pytest.approx(want, abs=1e-5)
    record = found.to_json()["by_prompt"]
    assert (record[0]["answer_tokens"], record[1]["answer_tokens"]) == (6, 0)
    assert record[1]["base"]["answer_loss"] is None


def test_edits_of_decode_steps_show_in_stepwise_losses() -> None:
    """Without it a note says so; with it every row but the first is edited."""
    late = zero(heads=EDITED, phase="decode")
    plain = probe.ablate(_pair(), TEXTS[0], [late], controls=0, new_tokens=4)
    assert plain.total("edited", "kl_to_base") == 0.0
    assert any("acts in decode steps alone" in note for note in plain.to_json()["notes"])
    steps = probe.ablate(_pair(), TEXTS[0], [late], controls=0, new_tokens=0, stepwise=True)
    rows = zero(heads=EDITED, queries=(1, 1000))
    want = probe.ablate(_pair(), TEXTS[0], [rows], controls=0, new_tokens=0)
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
    found = probe.ablate(_pair(), TEXTS[0], [_Louder()], new_tokens=0)
    prompt = Prompt.of(TEXTS[0], small_models.letters())
    logits = _logits(small_models.llama(), prompt)
    logits[:, 5] += 3.0
    want = _dense_losses(logits, torch.tensor(prompt.tokens)).mean().item()
    assert found.total("edited", "loss") == pytest.approx(want, abs=1e-5)
    assert found.to_json()["runs"]["control"] is None
    assert any("louder has none" in note for note in found.provenance.notes)


def test_guided_logits_are_in_the_losses() -> None:
    """Even where guidance moves single rows alone: logits + w · (logits - edited logits)."""
    edit = zero(heads=["L1.H2"], queries=(3, 5))
    found = probe.ablate(_pair(), TEXTS[0], [guidance([edit], w=2.0)], new_tokens=0, controls=0)
    prompt = Prompt.of(TEXTS[0], small_models.letters())
    base, edited = _logits(small_models.llama(), prompt), _logits(_without(["L1.H2"]), prompt)
    moved = base.clone()
    moved[3:5] = base[3:5] + 2.0 * (base[3:5] - edited[3:5])
    want = _dense_losses(moved, torch.tensor(prompt.tokens)).mean().item()
    assert found.total("edited", "loss") == pytest.approx(want, abs=1e-5)
    assert abs(found.total("edited", "loss") - found.total("base", "loss")) > 1e-3


def test_values_kept_per_prompt_go_to_their_own_prompt() -> None:
    """A patch from each prompt into itself changes nothing; from the first into the second it does."""
    loaded = as_loaded(_pair())
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


def test_controls_edit_as_many_other_heads_of_each_layer() -> None:
    """Different draws, none of which touches a head that any intervention of the list edits."""
    loaded = as_loaded(small_models.llama(num_attention_heads=8, num_key_value_heads=2))
    verify(loaded.model)
    edits = [zero(heads=["L0.H1", "L1.H2"]), scale(heads=["L0.H3", "L0.H4"], alpha=2.0)]
    edited = heads_of(edits, loaded)
    controls, notes = draw_controls(edits, loaded, 4, seed=3)
    assert (len(edited), len(controls), notes) == (4, 4, ())
    assert len({one.heads for one in controls}) == 4
    for one in controls:
        assert not heads_of(one.interventions, loaded) & edited
        for mine, other in zip(edits, one.interventions, strict=True):
            counts = [_per_layer(edit.target, loaded) for edit in (mine, other)]
            assert counts[0] == counts[1]


def _per_layer(target: Target, loaded: Any) -> list[int]:
    found = [head.layer for head in heads_of([zero()], loaded)]
    chosen = [head.layer for head in heads_of([type("one", (), {"target": target})()], loaded)]
    return [chosen.count(layer) for layer in sorted(set(found))]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (["L0.H0", "L0.H1", "L0.H2"], "at most half of a layer's heads"),
        (None, "every head of a layer"),
        (["L0.H0", "L0.H1"], "1 different controls"),
    ],
)
def test_where_controls_cannot_be_drawn_a_line_says_so(heads: list[str] | None, message: str) -> None:
    """It is no error: the edit itself can still be measured."""
    found = probe.ablate(_pair(), TEXTS[0], [zero(heads=heads)], new_tokens=0)
    assert any(message in note for note in found.provenance.notes)
    assert (found.to_json()["runs"]["control"] is None) == ("different" not in message)


def test_controls_are_averaged_and_each_draw_is_told() -> None:
    """The control's loss is the mean over draws; the draws name their heads."""
    found = probe.ablate(_pair(), TEXTS, [zero(heads=["L0.H1"])], new_tokens=0, controls=2, seed=5)
    control = found.to_json()["runs"]["control"]
    assert control["loss"] == pytest.approx(np.mean([draw["loss"] for draw in control["draws"]]))
    assert len({tuple(draw["heads"]) for draw in control["draws"]}) == 2
    assert all(draw["heads"][0].startswith("L0.H") for draw in control["draws"])


def test_intervals_cover_the_mean_over_prompts() -> None:
    """As wide as the standard error says for many prompts; a difference is paired, so shared noise is not in it."""
    drawn = np.random.default_rng(0)
    hard, gain = drawn.normal(3.0, 1.0, 400), drawn.normal(0.1, 0.02, 400)
    weights = dict.fromkeys(("predicted", "positions", "answer_tokens"), np.full(400, 10))
    runs = {"base": {"loss": hard}, "edited": {"loss": hard + gain}}
    found = intervals(runs, weights, 0.95, 0)
    low, high = found["base"]["loss"]
    assert (low, high) == pytest.approx(
        (hard.mean() - 1.96 * hard.std() / 20, hard.mean() + 1.96 * hard.std() / 20), abs=0.02
    )
    low, high = found["edited_minus_base"]["loss"]
    assert 0.09 < low < gain.mean() < high < 0.11
    assert found["base"]["perplexity"] == pytest.approx([math.exp(x) for x in found["base"]["loss"]])


def test_one_prompt_has_no_interval_and_json_no_nan(tmp_path: Path) -> None:
    """Null and said; the saved file is the object; a prompt of one token has divergence but no loss."""
    model, tokenizer = _pair()
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


def test_a_text_without_room_is_not_continued() -> None:
    """Losses are measured all the same, and a line says why there is no text."""
    found = probe.ablate(_pair(), "a" * 128, [zero(heads=["L0.H0"])], controls=0)
    assert found.base.prompts[0].continuation is None
    assert found.total("edited", "loss") > 0
    assert any("no positions are left" in note for note in found.provenance.notes)


def test_the_model_is_as_it_was() -> None:
    """Its logits, its training mode and its hooks."""
    model, tokenizer = _pair()
    model.train()
    ids = torch.tensor([[3, 4, 5, 6]])
    before = model(ids).logits
    probe.ablate((model, tokenizer), TEXTS[0], [zero(heads=EDITED)], controls=1, new_tokens=2)
    assert model.training
    assert torch.equal(model(ids).logits, before)
    assert not model._forward_hooks
    assert not model.model._forward_hooks


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no interventions": (lambda: probe.ablate(_pair(), "a b", []), UsageError, "at least one"),
    "unknown head": (lambda: probe.ablate(_pair(), "a b", [zero(heads=["L0.H9"])]), UnknownNameError, "L0.H9"),
    "unknown layer": (lambda: probe.ablate(_pair(), "a b", [zero(heads=["L7.H0"])]), UnknownNameError, "L7.H0"),
    "unknown spec": (lambda: probe.ablate(_pair(), "a b", ["zeero:heads=L0.H0"]), UnknownNameError, "'zero'"),
    "unknown option": (lambda: probe.ablate(_pair(), "a b", ["zero"], control=1), UnknownNameError, "controls"),
    "encoder": (
        lambda: probe.ablate((small_models.bert(), small_models.letters()), "a b", ["zero"]), UsageError, "analyze",
    ),
    "encoder and decoder": (
        lambda: probe.ablate((small_models.t5(), small_models.letters()), "a b", ["zero"]), UsageError, "decoder",
    ),
    "ready-made inputs": (
        lambda: probe.ablate(_pair(), {"input_ids": torch.ones(1, 3)}, ["zero"]), InputError, "text or prompts",
    ),
    "too long": (lambda: probe.ablate(_pair(), "a" * 129, ["zero"]), InputError, "128"),
    "negative controls": (lambda: probe.ablate(_pair(), "a b", ["zero"], controls=-1), UsageError, "controls=-1"),
    "level": (lambda: probe.ablate(_pair(), "a b", ["zero"], level=95.0), UsageError, "between 0 and 1"),
    "new tokens": (lambda: probe.ablate(_pair(), "a b", ["zero"], new_tokens=-1), UsageError, "new_tokens=-1"),
    "never acts": (
        lambda: probe.ablate(_pair(), "a b", ["zero:heads=L0.H0,phase=decode"], new_tokens=0, controls=0),
        InterventionError, "changed nothing in 1 forwards",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what: str) -> None:
    """Whatever cannot be measured is an error that says what to do."""
    call, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        call()


def test_sampled_texts_share_their_random_numbers() -> None:
    """An edit that does nothing writes the very same text; a seed gives the same text again, another one another."""
    from probe.analysis.continuation import Decoding

    how = Decoding(30, temperature=1.0)
    same = probe.generate(_pair(), TEXTS[0], [scale(heads=EDITED, alpha=1.0)], decoding=how, seed=3)
    assert same.differs_at("edited") is None
    again = probe.generate(_pair(), TEXTS[0], [zero(heads=EDITED)], decoding=how, seed=3, control=True)
    assert again.runs["base"].tokens == same.runs["base"].tokens
    other = probe.generate(_pair(), TEXTS[0], [zero(heads=EDITED)], decoding=how, seed=4)
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
