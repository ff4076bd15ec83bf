"""Direct logit attribution: its parts sum to the logit difference in every shape of block, and say who wrote it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from copier import copier
from decoders import EXPERTS, GROUPED, SIZES, rough
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs
from transformers import (
    BitNetConfig,
    BitNetForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from probe.circuits import logit_attribution
from probe.circuits.anatomy import anatomy_of
from probe.errors import CaptureError, UsageError
from probe.models import as_loaded
from probe.prompts import Prompt
from probe.prompts.pairs import Pair
from probe.report import Answer, Report

RECURRENT = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


def _qwen(*layers: str) -> Any:
    return rough(
        Qwen3NextForCausalLM,
        Qwen3NextConfig(**SIZES, **GROUPED, **EXPERTS, **RECURRENT, layer_types=list(layers)),
    )


MODELS: dict[str, Callable[[], Any]] = {
    "plain": tiny.llama,
    "norms behind": tiny.gemma3,
    "window": tiny.mistral,
    "sinks and experts": tiny.gpt_oss,
    "biases": lambda: rough(
        GPT2LMHeadModel, GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    ),
    "parallel": lambda: rough(GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES)),
    "unembedding bias": lambda: rough(PhiForCausalLM, PhiConfig(**SIZES)),
    "scaled": lambda: rough(
        GraniteForCausalLM,
        GraniteConfig(**SIZES, residual_multiplier=0.3, logits_scaling=3.0, embedding_multiplier=4.0),
    ),
    "capped": lambda: rough(Gemma2ForCausalLM, Gemma2Config(**SIZES, **GROUPED)),
    "z gated": lambda: _qwen("full_attention", "full_attention"),
    "z normalised": lambda: rough(BitNetForCausalLM, BitNetConfig(**SIZES, num_key_value_heads=2)),
    "recurrent": lambda: _qwen("linear_attention", "full_attention"),
}


def _asked(model: Any, **changes: Any) -> tuple[Report, Answer]:
    report = logit_attribution(model, random_pairs(64, 3, 9), min_accuracy=0.0, **changes)
    return report, report.answers[0]


@pytest.mark.parametrize("name", MODELS)
def test_parts_sum_to_the_logit_difference(name: str) -> None:
    """Embedding, heads, MLPs and biases together are what the model's logits say, pair by pair."""
    model = MODELS[name]()
    _, answer = _asked((model, None), sources=True)
    pairs = random_pairs(64, 3, 9)
    ids = torch.tensor([pair.clean.tokens for pair in pairs])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, -1].double()
    if name == "capped":
        cap = model.config.final_logit_softcapping
        logits = cap * torch.atanh(logits / cap)
    wanted = np.mean(
        [float(row[pair.right[0]] - row[pair.wrong[0]]) for row, pair in zip(logits, pairs, strict=True)]
    )
    assert float(answer.extra["component"].sum()) == pytest.approx(wanted, abs=1e-5)
    assert float(answer.extra["accumulated"][-1]) == pytest.approx(wanted, abs=1e-5)
    assert float(answer.head_map.sum()) == pytest.approx(
        float(answer.extra["component"].sel(component="heads"))
    )


@pytest.mark.parametrize("name", MODELS)
def test_source_tokens_sum_to_their_head(name: str) -> None:
    """What a head reads from each token adds up to what the head adds."""
    _, answer = _asked((MODELS[name](), None), sources=True)
    np.testing.assert_allclose(answer.extra["by_source"].sum("position"), answer.head_map, atol=1e-6)


def test_layers_are_attention_and_mlp() -> None:
    """What a layer adds is the step from the stream that enters it to the one that enters the next."""
    _, answer = _asked((MODELS["parallel"](), None))
    steps = np.diff(answer.extra["accumulated"].values)
    np.testing.assert_allclose(answer.extra["layer"], steps, atol=1e-6)
    both = answer.extra["attention"] + answer.extra["mlp"]
    np.testing.assert_allclose(answer.extra["layer"], both, atol=1e-12)


def test_a_window_hides_source_tokens() -> None:
    """Tokens that the last position cannot see are the source of nothing, the others of something."""
    _, answer = _asked((tiny.mistral(), None), sources=True)
    added = abs(answer.extra["by_source"]).sum(("layer", "head")).values
    assert added[:4].max() == 0
    assert added[4:].min() > 0


@pytest.mark.parametrize("name", ["z gated", "z normalised"])
def test_gates_are_said(name: str) -> None:
    """A reader of source tokens is told that the ratio between z and what W_O is given was held."""
    _, answer = _asked((MODELS[name](), None), sources=True)
    assert any("gated or normalised" in note for note in answer.notes)


def test_what_mixes_entries_of_z_is_refused() -> None:
    """Where z's entries are mixed before W_O, source tokens are not told apart; heads still are."""
    model = MODELS["z gated"]()
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _module, args: (args[0] @ turn,))
    _asked((model, None))
    with pytest.raises(CaptureError, match="cannot be split by source"):
        _asked((model, None), sources=True)


def test_the_planted_head_says_the_answer() -> None:
    """In a hand-set induction circuit the copying head makes the whole difference, from the token that it copies."""
    loaded = copier(["a", "b", "c", "d", "e"])
    a, b, c, d, e = (loaded.tokenizer.convert_tokens_to_ids(one) for one in "abcde")
    prompts = [Prompt.of_tokens([a, one, c, e, a], loaded.tokenizer, id=f"{one}") for one in (b, d)]
    pair = Pair("planted", prompts[0], prompts[1], (b,), (d,))
    answer = logit_attribution(loaded, [pair], sources=True).answers[0]
    total = float(answer.extra["component"].sum())
    assert total > 0
    assert float(answer.head_map.sel(layer=1, head=0)) == pytest.approx(total, rel=1e-4)
    sources = answer.extra["by_source"].sel(layer=1, head=0)
    assert int(sources.values.argmax()) == 1
    assert float(sources[1]) == pytest.approx(total, rel=1e-3)


@given(head=st.integers(0, 3), times=st.floats(-3, 3))
@settings(max_examples=3, deadline=None)
def test_a_last_head_counts_as_its_weights_do(head: int, times: float) -> None:
    """Against the others of its layer, a head of the last layer counts `times` as much where its W_O does."""
    model = tiny.llama()
    before = _asked((model, None))[1].by_prompt.sel(layer=1)  # type: ignore[union-attr]
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] *= times
    after = _asked((model, None))[1].by_prompt.sel(layer=1)  # type: ignore[union-attr]
    other = (head + 1) % 4
    scale = after.sel(head=other) / before.sel(head=other)
    np.testing.assert_allclose(
        after.sel(head=head), times * scale * before.sel(head=head), rtol=1e-3, atol=1e-6
    )


def test_pairs_of_several_lengths_are_told_by_marks() -> None:
    """Source tokens are summed at marks and elsewhere; together they are still the head's part."""
    pairs = [*random_pairs(64, 2, 9), *random_pairs(64, 2, 7, seed=1)]
    answer = logit_attribution((tiny.llama(), None), pairs, sources=True, min_accuracy=0.0).answers[0]
    sources = answer.extra["by_source"]
    assert list(sources.position.values) == ["cue", "end", "elsewhere"]
    np.testing.assert_allclose(sources.sum("position"), answer.head_map, atol=1e-6)


def test_what_else_writes_is_an_error() -> None:
    """Parts that miss the difference are not reported."""
    model = tiny.llama()
    anatomy_of(as_loaded((model, None)))
    model.model.layers[0].register_forward_hook(lambda _module, _args, output: output * 1.5)
    with pytest.raises(CaptureError, match="miss the logit difference by"):
        _asked((model, None))


def test_other_measures_are_refused() -> None:
    """Only what is linear in the logits can be split."""
    with pytest.raises(UsageError, match="kl was asked"):
        _asked((tiny.llama(), None), measure="kl")


def test_the_largest_error_and_caps_are_said() -> None:
    """Notes say how exact the sum is, and that logits before a cap were split."""
    notes = _asked((MODELS["capped"](), None))[1].notes
    assert "sum to the logit difference" in notes[0]
    assert any("before the cap" in note for note in notes)
