"""`probe.analyze` from model and prompts to a report: the same numbers whichever way the prompts are run."""

import json

import numpy as np
import pytest
import torch
from small_models import bert, gpt2, letters, llama, mistral, t5, vit

import probe
from probe.analysis import AnalyzeOptions
from probe.errors import BudgetError, InputError, ModelError, OutputError, UnknownNameError, UsageError
from probe.metrics import MetricInfo, make

TEXTS = ["the cat sat on the mat, the cat sat.", "a dog.", "quick brown foxes jump over lazy dogs."]
METRICS = ["entropy", "sink:n=2", "received", "distance", "previous_token", "future_influence:lo=1,hi=5"]


def dense_entropy(model: torch.nn.Module, ids: torch.Tensor) -> np.ndarray:
    """Mean entropy per layer and head from the model's own eager weights."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            maps = model(ids, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    return np.stack([(-torch.xlogy(p, p).sum(-1).mean(-1))[0].double().numpy() for p in maps])


@pytest.mark.parametrize("build", [llama, gpt2, mistral, bert])
def test_entropy_equals_the_models_own_weights(build):
    """The reported entropy is that of the attention weights which the model itself computes."""
    model, tokenizer = build(), letters()
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    expected = dense_entropy(model, ids)
    report = probe.analyze((model, tokenizer), TEXTS[0], ["entropy"])
    np.testing.assert_allclose(report["entropy"].values, expected, atol=2e-5)
    assert report.provenance.tokens == ids.shape[1]
    assert report.provenance.logit_drift < 1e-4


@pytest.mark.parametrize("build", [llama, gpt2, mistral, bert])
def test_batches_give_the_same_answers(build):
    """Prompts of several lengths in one batch give what they give one by one."""
    model = (build(), letters())
    alone = probe.analyze(model, TEXTS, ["entropy", "max_prob", "head_output_norm"])
    together = probe.analyze(model, TEXTS, ["entropy", "max_prob", "head_output_norm"], batch_size=3)
    for key in alone:
        one, other = alone.answer(key), together.answer(key)
        np.testing.assert_allclose(other.head_map, one.head_map, atol=1e-4)
        np.testing.assert_allclose(other.by_prompt, one.by_prompt, atol=1e-4)


@pytest.mark.parametrize("build", [llama, gpt2, mistral])
def test_chunked_prefill_gives_the_same_answers(build):
    """Feeding a prompt through the cache in chunks changes no answer, token maps included."""
    model = (build(), letters())
    whole = probe.analyze(model, TEXTS[0], METRICS)
    chunked = probe.analyze(model, TEXTS[0], METRICS, chunk=7)
    assert chunked.provenance.settings["chunk"] == 7
    for key in whole:
        np.testing.assert_allclose(chunked[key], whole[key], atol=1e-4, err_msg=key)
        for prompt, tokens in whole.answer(key).token_maps.items():
            np.testing.assert_allclose(chunked.answer(key).token_maps[prompt], tokens, atol=1e-4, err_msg=key)


def test_all_inputs_reach_the_same_prompt():
    """Text, a Prompt, a list and ready-made tensors of the same tokens give the same answers."""
    model, tokenizer = llama(), letters()
    prompt = probe.Prompt.of(TEXTS[0], tokenizer)
    ready = {"input_ids": torch.tensor([prompt.tokens])}
    reports = [
        probe.analyze((model, tokenizer), given, ["entropy"]) for given in (TEXTS[0], prompt, [prompt], ready)
    ]
    for report in reports[1:]:
        np.testing.assert_array_equal(report["entropy"], reports[0]["entropy"])
    assert reports[3].provenance.tokens == len(prompt.tokens)


def test_encoder_decoder_has_three_towers():
    """Encoder, decoder and cross-attention are answered apart, and the report says what the decoder was given."""
    report = probe.analyze((t5(), letters()), TEXTS[0], ["entropy"])
    assert {answer.tower for answer in report.answers} == {"encoder", "decoder", "cross"}
    assert any("start token" in note for note in report.provenance.notes)


def test_vision_model_takes_pixels():
    """A vision model is analysed on the pixels that it is given."""
    pixels = torch.randn(2, 3, 32, 32)
    report = probe.analyze(vit(), {"pixel_values": pixels}, ["entropy"])
    assert np.isfinite(report.answers[0].head_map).all()
    assert 0 < float(report.answers[0].head_map.mean()) < np.log(17)


def test_shadow_leaves_the_model_as_it_is():
    """In shadow mode the numbers agree with fused, and the model is restored after both."""
    model = llama()
    before = model.config._attn_implementation
    fused = probe.analyze((model, letters()), TEXTS[0], ["entropy"])
    shadow = probe.analyze((model, letters()), TEXTS[0], ["entropy"], mode="shadow")
    np.testing.assert_allclose(shadow["entropy"], fused["entropy"], atol=1e-4)
    assert shadow.provenance.mode == "shadow"
    assert model.config._attn_implementation == before


def test_interventions_reach_the_numbers():
    """An intervention in an early layer moves what later layers attend to, and the report names it."""
    model = (llama(), letters())
    edit = probe.interventions.zero(heads=["L0.H1"])
    base = probe.analyze(model, TEXTS[0], ["entropy"])
    edited = probe.analyze(model, TEXTS[0], ["entropy"], [edit])
    np.testing.assert_array_equal(edited["entropy"][0], base["entropy"][0])
    assert float(abs(edited["entropy"][1] - base["entropy"][1]).max()) > 1e-4
    assert edited.provenance.settings["interventions"] == ["zero:heads=L0.H1"]


def test_metric_instances_are_not_consumed():
    """A metric instance can be used for two analyses without mixing them."""
    metric = make("entropy")
    model = (llama(), letters())
    first = probe.analyze(model, TEXTS[0], [metric])
    second = probe.analyze(model, TEXTS[0], [metric])
    np.testing.assert_array_equal(first["entropy"], second["entropy"])
    assert metric.cells == {}


def test_same_seed_same_report_and_untouched_generators():
    """Two runs are identical, and torch's generator is where it was."""
    model = (llama(), letters())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = probe.analyze(model, TEXTS, ["entropy"], deterministic=True)
    assert torch.equal(torch.rand(1), expected)
    second = probe.analyze(model, TEXTS, ["entropy"], deterministic=True)
    np.testing.assert_array_equal(first["entropy"], second["entropy"])
    assert any("deterministic" in note for note in first.provenance.notes)
    assert not torch.are_deterministic_algorithms_enabled()


def test_logits_are_made_for_one_position(monkeypatch):
    """The model is never asked for logits of more than one position during the run."""
    model = llama()
    asked = []
    forward = model.lm_head.forward
    monkeypatch.setattr(
        model.lm_head, "forward", lambda hidden: asked.append(hidden.shape[1]) or forward(hidden)
    )
    probe.analyze((model, letters()), "a" * 100, ["entropy"])
    assert asked[-1] == 1
    assert max(asked) <= 64  # verify looks at the first 64 tokens


def test_text_free_report_holds_no_text():
    """With text=False neither prompts nor tokens are in the report."""
    report = probe.analyze((llama(), letters()), TEXTS[0], ["entropy"], text=False)
    assert report.prompts == ()
    assert "cat" not in json.dumps(report.to_json())


def test_max_tokens_keeps_the_first():
    """Cutting a text equals giving its beginning."""
    model = (llama(), letters())
    cut = probe.analyze(model, TEXTS[0], ["entropy"], max_tokens=10)
    np.testing.assert_array_equal(cut["entropy"], probe.analyze(model, TEXTS[0][:10], ["entropy"])["entropy"])


def test_shipped_text_is_cut_with_a_note():
    """Without prompts the shipped text is used, cut to the model's positions, and the report says so."""
    tokenizer = letters()
    report = probe.analyze((llama(), tokenizer), None, ["entropy"])
    assert report.provenance.tokens == 128
    assert any("128 tokens" in note for note in report.provenance.notes)


def test_induction_takes_repeated_tokens_where_nobody_gave_prompts():
    """Without prompts induction is measured on seeded repeated random tokens, numbered after the shipped text."""
    report = probe.analyze((llama(), letters()), None, ["entropy", "induction"])
    assert [record.id for record in report.prompts] == ["0", *(f"repeated:{n}" for n in range(4))]
    assert list(report.answer("entropy").by_prompt.prompt) == [0]
    assert list(report.answer("induction").by_prompt.prompt) == [1, 2, 3, 4]
    assert any("induction was measured on its own prompts" in note for note in report.provenance.notes)
    given = probe.analyze((llama(), letters()), TEXTS[0], ["induction"])
    assert list(given.answer("induction").by_prompt.prompt) == [0]


def test_training_mode_is_put_back():
    """A model in training mode is analysed in evaluation mode and is as it was afterwards, module by module."""
    model = llama().train()
    model.lm_head.eval()
    probe.analyze((model, letters()), TEXTS[0], ["entropy"])
    assert model.model.layers[0].training
    assert not model.lm_head.training


def test_progress_counts_prompts():
    """Progress starts at nothing and ends with everything."""
    seen = []
    probe.analyze((llama(), letters()), TEXTS, ["entropy"], progress=lambda *now: seen.append(now))
    assert seen[0][:2] == (0, 3)
    assert seen[-1][:2] == (3, 3)


@pytest.mark.parametrize(
    ("prompts", "metrics", "changes", "error", "words"),
    [
        ("", ["entropy"], {}, InputError, "empty"),
        ([], ["entropy"], {}, InputError, "empty"),
        (3, ["entropy"], {}, InputError, "int"),
        ({"a": 1}, ["entropy"], {}, InputError, "tensors"),
        ("a" * 129, ["entropy"], {}, InputError, "--max-tokens 128"),
        ("a", ["entropie"], {}, UnknownNameError, "'entropy'"),
        ("a", ["sink:n=x"], {}, UsageError, "whole number"),
        ("a", ["entropy", "entropy"], {}, UsageError, "twice"),
        ("a", [3], {}, UsageError, "metric"),
        ("a", ["entropy"], {"keeep": "map"}, UnknownNameError, "'keep'"),
        ("a", ["entropy"], {"keep": "map"}, UsageError, "out=DIR"),
        ("a", ["entropy"], {"chunk": 0}, UsageError, "at least 1"),
        ("a", ["entropy"], {"chunk": 2, "batch_size": 2}, UsageError, "batch_size"),
        ("a", ["entropy"], {"mode": "eager"}, UsageError, "fused"),
        ("a", ["entropy"], {"kernels": "fast"}, UsageError, "fast"),
    ],
)
def test_wrong_calls_say_what_is_wrong(prompts, metrics, changes, error, words):
    """A wrong call is refused before anything runs, and the message names what was wrong."""
    with pytest.raises(error, match=words):
        probe.analyze((llama(), letters()), prompts, metrics, **changes)


def test_wrong_interventions_are_refused():
    """Interventions that edit nothing, name missing heads, or clash with the mode are refused."""
    model = (llama(), letters())
    zero = probe.interventions.zero
    for interventions, error in (
        (["zero"], UsageError),
        (zero(heads=["L0.H0"]), UsageError),
        ([zero(heads=["L7.H0"])], UnknownNameError),
        ([zero(heads=["L0.H9"])], UnknownNameError),
    ):
        with pytest.raises(error):
            probe.analyze(model, "abc", ["entropy"], interventions)
    with pytest.raises(UsageError, match="fused"):
        probe.analyze(model, "abc", ["entropy"], [zero(heads=["L0.H0"])], mode="shadow")


def test_text_without_a_tokenizer_is_refused():
    """Text for a model without a tokenizer is an error that says what to give instead."""
    with pytest.raises(InputError, match="tokenizer"):
        probe.analyze(llama(), "abc", ["entropy"])


def test_a_model_without_attention_is_refused():
    """A model with no attention is a wrong call, not a crash."""
    with pytest.raises(UsageError, match="no attention"):
        probe.analyze(torch.nn.Linear(2, 2), {"input": torch.zeros(1, 2)}, ["entropy"])


def poisoned(longer_than: int) -> torch.nn.Module:
    """A model whose first MLP gives NaN on prompts of more than so many tokens."""
    model = llama()

    def poison(module, args, output):
        return output * float("nan") if output.shape[1] > longer_than else None

    model.model.layers[0].mlp.register_forward_hook(poison)
    return model


def test_nan_activations_name_the_layer():
    """Activations that are not finite raise an error with the name of the first attention layer that shows them."""
    with pytest.raises(ModelError, match=r"layers\.1.*decoder layer 1"):
        probe.analyze((poisoned(64), letters()), ["abc", "a" * 70], ["entropy"])


def test_nan_after_the_last_attention_is_noticed():
    """NaN that no attention layer sees is found in the logits."""
    model = llama()
    model.lm_head.register_forward_hook(lambda m, a, out: out * float("nan") if len(seen) > 2 else None)
    seen = []
    model.register_forward_pre_hook(lambda m, a: seen.append(1))
    with pytest.raises(ModelError, match="logits"):
        probe.analyze((model, letters()), "a" * 70, ["entropy"])


def test_out_of_memory_names_the_size(monkeypatch):
    """Running out of memory is a BudgetError that names the tokens."""
    model = llama()
    forward = model.forward

    def starved(*args, **kwargs):
        if kwargs["input_ids"].shape[1] > 64:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"
            )
        return forward(*args, **kwargs)

    starved.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(model, "forward", starved)
    with pytest.raises(BudgetError, match="100 tokens"):
        probe.analyze((model, letters()), "a" * 100, ["entropy"])


def test_output_folder_holds_the_report(tmp_path):
    """With out= the report is saved, opens again identical, and no unfinished state stays."""
    out = tmp_path / "run"
    report = probe.analyze((llama(), letters()), TEXTS, ["entropy"], out=out)
    assert probe.open_report(out).identical(report)
    assert not (out / "unfinished").exists()


def test_bad_output_folders_are_refused_before_the_model_loads(tmp_path):
    """A folder with other files, or a file in its place, is refused and left alone."""
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        probe.analyze("no-such-model", "abc", ["entropy"], out=tmp_path)
    with pytest.raises(OutputError, match="not a folder"):
        probe.analyze("no-such-model", "abc", ["entropy"], out=tmp_path / "other.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_a_failed_run_leaves_nothing(tmp_path):
    """A run that fails before its first prompt is finished leaves no folder behind."""
    out = tmp_path / "run"
    with pytest.raises(ModelError):
        probe.analyze((poisoned(64), letters()), "a" * 70, ["entropy"], out=out, keep="map")
    assert not out.exists()


def test_options_object_and_names_agree():
    """Options can come as an object, by name, or both, the name winning."""
    options = AnalyzeOptions(max_tokens=5, by_prompt=False)
    report = probe.analyze((llama(), letters()), TEXTS[0], ["entropy"], options=options, max_tokens=6)
    assert report.provenance.tokens == 6
    assert report.answers[0].by_prompt is None


def test_experiments_run_under_the_interventions_of_the_call():
    """What a report says was edited was edited for experiments too."""
    model, seen = llama(), []
    ids = torch.tensor([[5, 9, 3, 7]])

    class Looks:
        info = MetricInfo("looks", "Nothing.", "nats", "high", "", "")
        spec = "looks"

        def run(self, ask):
            with torch.no_grad():
                seen.append(ask.model.model(ids).logits)
            return []

    with torch.no_grad():
        native = model(ids).logits
    for edits in ([], [probe.interventions.zero(layers=[0, 1])]):
        probe.analyze((model, letters()), "abcabc", metrics=[Looks()], interventions=edits)
    assert torch.allclose(seen[0], native, atol=1e-4)
    assert not torch.allclose(seen[1], native, atol=1e-2)


def test_ready_made_ids_make_few_logits():
    """Verifying on the first input never makes logits for all of its positions."""
    model, shapes = llama(max_position_embeddings=512), []
    model.lm_head.register_forward_hook(lambda _m, _a, out: shapes.append(out.shape[1]))
    probe.analyze(model, {"input_ids": torch.arange(300)[None] % 20 + 1}, metrics=["entropy"])
    assert max(shapes) <= 64


def test_experiments_read_no_more_of_the_shipped_text_than_was_asked():
    """`max_tokens` holds for them as for metrics."""
    lengths = []

    class Reads:
        info = MetricInfo("reads", "Nothing.", "nats", "high", "", "")
        spec = "reads"

        def run(self, ask):
            lengths.extend(len(prompt) for prompt in ask.texts(100))
            return []

    probe.analyze((llama(), letters()), metrics=["entropy", Reads()], max_tokens=30)
    probe.analyze((llama(), letters()), "abcabc", metrics=["entropy", Reads()])
    assert lengths == [30, 6]
