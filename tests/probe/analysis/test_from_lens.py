"""Attention that TransformerLens computed, read by the same metrics: equal to an analysis and to its own detector."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from subjects.catalogue import SUBJECTS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import probe
from probe.errors import InputError, UsageError
from probe.prompts import Prompt

bridge = pytest.importorskip("transformer_lens.model_bridge", reason="needs the extra 'lens'")
detector = pytest.importorskip("transformer_lens.head_detector", reason="needs the extra 'lens'")

TOKENS = [11, 12, 13, 14, 11, 12, 17, 18, 13, 14, 21, 12, 13]
METRICS = [
    "entropy", "sink:n=2", "received", "distance", "previous_token", "duplicate_token", "induction", "waad:window=4",
    "value_norm", "head_output_norm", "span_mass:span=start", "residual_peak",
]  # fmt: skip
MODELS = {
    "rotary, grouped": SUBJECTS["llama"].model,
    "learned positions": small_models.gpt2,
    "softcap and own scale": SUBJECTS["gemma2"].model,
    "sliding window": SUBJECTS["mistral-window"].model,
}


def booted(model: torch.nn.Module, folder: Path) -> Any:
    """A bridge on the model."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(99)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", unk_token="0")
    model.save_pretrained(folder)
    return bridge.TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return booted(SUBJECTS["llama"].model(), tmp_path_factory.mktemp("lens"))


@pytest.fixture(scope="module")
def cache(lens: Any) -> dict[str, torch.Tensor]:
    made = lens.run_with_cache(torch.tensor([TOKENS]))[1]
    return {name: made[name] for name in made.keys()}  # noqa: SIM118 -- an ActivationCache is no mapping


def prompt() -> Prompt:
    return Prompt.of_tokens(TOKENS, spans={"start": (0, 3)})


def same(found: probe.Report, expected: probe.Report, keys: list[str]) -> None:
    for key in keys:
        one, other = found.answer(key), expected.answer(key)
        np.testing.assert_allclose(one.head_map, other.head_map, rtol=1e-4, atol=1e-5, err_msg=key)
        for number, tokens in other.token_maps.items():
            np.testing.assert_allclose(one.token_maps[number], tokens, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("kind", MODELS)
def test_equal_to_an_analysis(kind: str, tmp_path: Path) -> None:
    """Every metric, head by head and token by token; from q and k where they are enough, and it says where not."""
    model = MODELS[kind]()
    found = probe.from_lens(booted(MODELS[kind](), tmp_path), prompt(), METRICS)
    same(found, probe.analyze(model, prompt(), METRICS), METRICS)
    assert not any("cached patterns" in note for note in found.provenance.notes)
    assert found.provenance.tokens == len(TOKENS)
    assert found.prompts[0].spans["start"] == ((0, 3),)


@pytest.mark.parametrize("name", ["previous_token", "duplicate_token", "induction"])
def test_equal_to_the_head_detector(name: str, lens: Any) -> None:
    """TransformerLens's `detect_head` through its bridge; previous_token leaves row 0 out, which it counts."""
    text = " ".join(map(str, TOKENS))
    ids = lens.to_tokens(text)
    expected = detector.detect_head(lens, text, f"{name}_head", exclude_bos=False, error_measure="mul")
    found = probe.from_lens(lens, ids, [name])[name].values
    n = ids.shape[1]
    factor = n / (n - 1) if name == "previous_token" else 1.0
    np.testing.assert_allclose(found, factor * expected.numpy(), atol=1e-5)


def test_a_cache_without_vectors_gives_what_patterns_tell(cache: dict[str, torch.Tensor]) -> None:
    """Metrics of patterns are the same; those of values say why they are not; the report says what was read."""
    keys = METRICS[:8]
    patterns = {name: value for name, value in cache.items() if name.endswith("hook_pattern")}
    found = probe.from_lens(patterns, TOKENS, [*keys, "value_norm"], name="mine")
    same(found, probe.analyze(SUBJECTS["llama"].model(), prompt(), keys), keys)
    assert found["value_norm"].isnull().all()
    assert "not applicable" in found.answer("value_norm").notes[0]
    assert found.provenance.notes == ("read from cached patterns: q, k and v are not cached (all layers)",)
    assert found.provenance.model.name == "mine"


def test_vectors_are_held_against_patterns(cache: dict[str, torch.Tensor]) -> None:
    """Where q and k do not give the cached pattern, the pattern is believed; where none is cached, that is told."""
    wrong = {name: 3 * value if name.endswith("hook_rot_q") else value for name, value in cache.items()}
    found = probe.from_lens(wrong, TOKENS, ["entropy"])
    right = probe.from_lens(cache, TOKENS, ["entropy"])
    np.testing.assert_allclose(found["entropy"], right["entropy"], atol=1e-5)
    assert any("q and k alone do not give them" in note for note in found.provenance.notes)
    blind = {name: value for name, value in cache.items() if not name.endswith("hook_pattern")}
    unchecked = probe.from_lens(blind, TOKENS, ["entropy"])
    np.testing.assert_allclose(unchecked["entropy"], right["entropy"], atol=1e-5)
    assert any("could not be held against patterns" in note for note in unchecked.provenance.notes)


def test_batches_and_single_sequences(lens: Any) -> None:
    """Two rows are two prompts; a cache without its batch axis is one."""
    both = torch.tensor([TOKENS, TOKENS[::-1]])
    found = probe.from_lens(lens.run_with_cache(both)[1], both, ["entropy"])
    assert found.answer("entropy").by_prompt.sizes["prompt"] == 2
    single = lens.run_with_cache(both[:1], remove_batch_dim=True)[1]
    alone = probe.from_lens(single, TOKENS, ["entropy"])
    np.testing.assert_allclose(found.answer("entropy").by_prompt[0], alone["entropy"], atol=1e-6)


def test_bad_sources_say_what_is_missing(cache: dict[str, torch.Tensor], lens: Any) -> None:
    """Every refusal names the hook or the argument."""

    def without(*ends: str) -> dict[str, torch.Tensor]:
        return {name: value for name, value in cache.items() if not name.endswith(ends)}

    cases = [
        (lambda: probe.from_lens(3, TOKENS), UsageError, r"attention-probe\[lens\]"),
        (lambda: probe.from_lens(lens), UsageError, "without tokens"),
        (lambda: probe.from_lens({}, TOKENS), InputError, "names_filter"),
        (lambda: probe.from_lens(cache, TOKENS[:4]), InputError, "1 sequences of 13 tokens"),
        (lambda: probe.from_lens(cache, "text"), InputError, "ids"),
        (lambda: probe.from_lens(cache, [[1, 2], [1]]), InputError, "ids"),
        (lambda: probe.from_lens(cache, TOKENS, ["retrieval"]), UsageError, "probe.analyze"),
        (
            lambda: probe.from_lens(without("hook_k", "hook_rot_k", "hook_pattern"), TOKENS),
            InputError,
            "hook_pattern",
        ),
        (
            lambda: probe.from_lens(without("resid_pre"), TOKENS, ["residual_peak"]),
            InputError,
            "hook_resid_pre",
        ),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()


def test_rotary_vectors_are_needed_where_nothing_else_tells_positions(lens: Any) -> None:
    """q and k before their rotation are refused unless a pattern is cached, which is then read."""
    made = lens.run_with_cache(torch.tensor([TOKENS]))[1]
    dropped = ("hook_rot_q", "hook_rot_k", "hook_pattern")
    made.cache_dict = {name: value for name, value in made.cache_dict.items() if not name.endswith(dropped)}
    with pytest.raises(InputError, match="rotary"):
        probe.from_lens(made, TOKENS, ["entropy"])


def test_tokens_may_be_unknown(cache: dict[str, torch.Tensor]) -> None:
    """Then matches of tokens are not applicable, and everything else is as before."""
    found = probe.from_lens(cache, metrics=["entropy", "induction"])
    np.testing.assert_allclose(found["entropy"], probe.from_lens(cache, TOKENS, ["entropy"])["entropy"])
    assert found["induction"].isnull().all()
    assert "no token ids" in found.answer("induction").notes[0]
