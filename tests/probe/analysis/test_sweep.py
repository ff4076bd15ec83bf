"""The effect of every head: resumed forwards against whole ones, its definition, planted heads, what is run."""

import json
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from copier import copier
from sweeps import TEXTS, pair, swept

import probe
from probe.analysis.sweeping.measure import Measure
from probe.analysis.sweeping.stack import Stack
from probe.errors import InterventionError
from probe.prompts import Prompt


def _resumed(report: probe.Report) -> bool:
    return report.provenance.notes[0].startswith("only the layer that is edited")


WAYS: dict[str, dict[str, Any]] = {
    "all": {},
    "decode": {"phase": "decode"},
    "last": {"queries": "last"},
}


# Windows, sinks, and a cache of more than keys and values; edits of z alone, of blocks, and of calls.
CASES = [
    ("gpt2", "zero", "all"), ("gpt2", "uniform_past", "decode"), ("gpt2", "to_bos", "last"),
    ("gemma3", "zero", "decode"), ("gemma3", "uniform_past", "last"), ("gemma3", "to_bos", "all"),
    ("gpt-oss", "zero", "last"), ("gpt-oss", "uniform_past", "all"), ("deepseek-v4", "zero", "decode"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "how", "way"), CASES)
def test_resuming_behind_the_edited_layer_gives_what_whole_forwards_give(
    name: str, how: str, way: str
) -> None:
    """Edits of z share the layer's attention, others run the block anew; with a cached prefix and without."""
    model = pair(name)
    resumed, whole = (swept(model, how, resume=resume, **WAYS[way]) for resume in (True, False))
    assert _resumed(resumed)
    assert not _resumed(whole)
    np.testing.assert_allclose(
        resumed.answer("effect").by_prompt, whole.answer("effect").by_prompt, rtol=0, atol=2e-6
    )
    assert float(abs(whole["effect"]).max()) > 1e-3


def test_skipped_layers_are_swept_by_whole_forwards() -> None:
    """Each layer's value is the loss without that layer, minus the base; the report says what it cost."""
    report = swept(how="skip_layer", over="layers", prompts=TEXTS[:1])
    assert "skip_layer edits modules of the model" in report.provenance.notes[0]
    model, tokenizer = pair()
    tokens = torch.tensor([Prompt.of(TEXTS[0], tokenizer).tokens])

    def loss() -> float:
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, :-1].double()
        return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]))

    base, layers = loss(), model.model.layers
    for number in range(2):
        model.model.layers = torch.nn.ModuleList([layers[1 - number]])
        np.testing.assert_allclose(report["effect"].sel(layer=number, head=0), loss() - base, atol=2e-6)


def test_an_effect_is_the_loss_with_the_heads_columns_of_w_o_zeroed_minus_the_base() -> None:
    """The definition, by weight surgery and dense losses, per prompt and in the mean."""
    report = swept(prompts=TEXTS)
    answer = report.answer("effect")
    tokenizer = small_models.letters()

    def losses(model: Any) -> list[float]:
        found = []
        for text in TEXTS:
            tokens = torch.tensor([Prompt.of(text, tokenizer).tokens])
            with torch.no_grad():
                logits = model(input_ids=tokens).logits[0, :-1].double()
            found.append(float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:])))
        return found

    base = losses(small_models.llama())
    np.testing.assert_allclose(answer.extra["base"], base, atol=2e-6)
    for layer, head in ((0, 1), (1, 3)):
        model: Any = small_models.llama()
        model.model.layers[layer].self_attn.o_proj.weight.data[:, head * 8 : (head + 1) * 8] = 0.0
        want = np.subtract(losses(model), base)
        np.testing.assert_allclose(answer.by_prompt.sel(layer=layer, head=head), want, atol=2e-6)
        np.testing.assert_allclose(report["effect"].sel(layer=layer, head=head), want.mean(), atol=2e-6)
    assert report.top("effect", 1)["score"][0] == float(report["effect"].max())
    assert report.intervals("effect").sizes["bound"] == 2


def test_the_heads_of_a_planted_circuit_are_found() -> None:
    """Without the head that looks back, or the one that copies, the answer is lost; other heads are worth nothing."""
    words = ["stone", "river", "cloud", "lamp", "door", "bird"]
    loaded = copier(words)
    texts = {"bird stone river cloud lamp stone": "river cloud", "bird lamp door cloud lamp": "door"}
    prompts = [Prompt.of(text, loaded.tokenizer, id=text, answer=said) for text, said in texts.items()]
    report = probe.sweep(loaded, "zero", task="needle", prompts=prompts)
    for layer in (0, 1):
        assert report["recall"].sel(layer=layer, head=0) == -1.0
        assert report["effect"].sel(layer=layer, head=0) > 0.05
        assert abs(float(report["effect"].sel(layer=layer, head=1))) < 1e-6
        assert report["recall"].sel(layer=layer, head=1) == 0.0
    assert report.top("recall", 2)["score"].tolist() == [-1.0, -1.0]


def test_ioi_is_the_change_of_the_difference_of_two_logits() -> None:
    """Of the answer's first token and the subject's, after the last token."""
    model, tokenizer = pair()
    prompt = Prompt.of("ann and bob, bob to", tokenizer, spans={"s2": (13, 16)}, answer=" ann")
    report = swept(task="ioi", prompts=prompt, how="zero:heads=L1.H2")
    names = [tokenizer(word)["input_ids"][0] for word in (" ", "b")]

    def difference() -> float:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.tokens])).logits[0, -1].double()
        return float(logits[names[0]] - logits[names[1]])

    base = difference()
    model.model.layers[1].self_attn.o_proj.weight.data[:, 16:24] = 0.0
    found = report["effect"]
    np.testing.assert_allclose(found.sel(layer=1, head=2), difference() - base, atol=2e-6)
    assert int(np.isfinite(found).sum()) == 1
    assert report.answer("effect").better == "low"


def _rows(model: Any) -> list[int]:
    """Rows that each layer's MLP ran, counted from now on."""
    counts = [0] * len(model.model.layers)
    for number, layer in enumerate(model.model.layers):

        def count(_: Any, args: Any, __: Any, number: int = number) -> None:
            counts[number] += args[0].shape[0] * args[0].shape[1]

        layer.mlp.register_forward_hook(count)
    return counts


def test_only_what_an_edit_can_have_changed_is_run() -> None:
    """No layer before the edited one; with a cached prefix, no row before the first edited one."""
    model = small_models.llama(num_hidden_layers=4)
    probe.verify(model)
    text, counts = ["the cat sat on the mat and ran after all the dogs"], _rows(model)
    rows = len(Prompt.of(text[0], small_models.letters())) - 1
    few = {}
    for name, way in WAYS.items():
        counts[:] = [0] * 4
        swept((model, small_models.letters()), prompts=text, **way)
        few[name] = list(counts)
    # Beside the heads: the base, entering the layers, the heads' count and two trials: a dozen forwards at most.
    for layer, ran in enumerate(few["all"]):
        assert 4 * (layer + 1) * rows <= ran <= (4 * (layer + 1) + 12) * rows
    for name in ("decode", "last"):
        for layer, ran in enumerate(few[name]):
            assert ran <= 4 * (layer + 1) * 8 + 12 * rows


def test_a_model_whose_blocks_pass_more_than_their_output_is_run_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a resumed forward would differ, the trial finds out, and the numbers are those of whole forwards."""
    whole = swept(resume=False)
    run = Stack.run

    def wrong(self: Stack, forward: Any, **how: Any) -> Any:
        found = run(self, forward, **how)
        return (
            found
            if how.get("start", 0) == 0 or how.get("stop") is None
            else found.holding(found.tensor + 0.1)
        )

    monkeypatch.setattr(Stack, "run", wrong)
    report = swept()
    assert "logits would differ" in report.provenance.notes[0]
    np.testing.assert_array_equal(report["effect"], whole["effect"])


def test_a_head_that_an_edit_cannot_reach_has_no_effect_and_is_named() -> None:
    """A window that ends before the hidden keys: exactly 0, and a note; where that holds for all, an error."""
    model = (small_models.mistral(), small_models.letters())
    how = "knockout:queries=20..30,keys=0..2"
    for resume in (True, False):
        with pytest.raises(InterventionError, match="changed nothing"):
            swept(model, how, resume=resume, prompts=TEXTS[:1])
    report = swept(pair("gemma3"), "knockout:queries=20..30,keys=0..2", prompts=TEXTS[:1])
    kinds = pair("gemma3")[0].config.layer_types
    for layer, kind in enumerate(kinds):
        effects = report["effect"].sel(layer=layer)
        assert bool((effects == 0).all()) == (kind == "sliding_attention")
    assert any("no number changed at all when L" in note for note in report.provenance.notes)


def test_a_value_that_is_not_defined_for_a_prompt_is_not_defined_in_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NaN is null in JSON, never a mean over the prompts that went well."""
    edited = Measure.edited

    def broken(self: Measure) -> Any:
        for unit, scores in edited(self):
            if unit.name == "L1.H0":
                scores[0, 1] = float("nan")
            yield unit, scores

    monkeypatch.setattr(Measure, "edited", broken)
    report = swept()
    values = report.to_json()["metrics"]["effect"]["values"]
    assert values[1][0] is None
    assert sum(value is None for row in values for value in row) == 1


def test_progress_counts_heads() -> None:
    """From 0 to all of them, each named."""
    seen: list[tuple[int, int, str]] = []
    swept(prompts=TEXTS[:1], how="zero:layers=1", progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == [0, 1, 2, 3, 4]
    assert {total for _, total, _ in seen} == {4}
    assert seen[-1][2] == "heads: L1.H3"


def test_reports_hold_no_text_where_that_was_asked() -> None:
    """Neither prompts nor their names."""
    report = swept(text=False)
    assert report.prompts == ()
    assert TEXTS[0] not in json.dumps(report.to_json())
