"""Who writes to the residual stream, found without names."""

from collections.abc import Callable
from typing import Any

import pytest
import small_models
import tiny
import torch
from decoders import GROUPED, SIZES, made
from support_pairs import random_pairs
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from probe.circuits.anatomy import anatomy_of
from probe.circuits.batches import batches
from probe.circuits.engine import engine
from probe.errors import CaptureError, UsageError
from probe.models import as_loaded

OPT = {
    "vocab_size": 64, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gemma3": tiny.gemma3,
    "mistral": tiny.mistral,
    "sinks and experts": tiny.gpt_oss,
    "gpt2": small_models.gpt2,
    "neox": lambda: made(GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES)),
    "cohere": lambda: made(CohereForCausalLM, CohereConfig(**SIZES)),
    "granite": lambda: made(
        GraniteForCausalLM, GraniteConfig(**SIZES, residual_multiplier=0.3, logits_scaling=3.0)
    ),
    "olmo2": lambda: made(Olmo2ForCausalLM, Olmo2Config(**SIZES)),
    "glm4": lambda: made(Glm4ForCausalLM, Glm4Config(**SIZES, **GROUPED)),
    "gemma2": lambda: made(Gemma2ForCausalLM, Gemma2Config(**SIZES, **GROUPED)),
    "phi3": lambda: made(Phi3ForCausalLM, Phi3Config(**SIZES)),
    "opt": lambda: made(OPTForCausalLM, OPTConfig(**OPT)),
    "experts": lambda: made(
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**SIZES, **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    ),
}
PARALLEL = {"neox", "cohere"}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_adds_up(name: str) -> None:
    """Input, attention and MLP sum to the block's output, heads and biases to attention: in every block."""
    model = MODELS[name]()
    loaded = as_loaded(model)
    (batch,) = batches(random_pairs(50))
    with engine(loaded) as running:
        nodes = ["resid_pre", "resid_post", "attn_out", "mlp_out", "z"]
        nodes += [] if name in PARALLEL else ["resid_mid"]
        trace = running.record(batch, "clean", nodes)  # type: ignore[arg-type]
    for layer in (0, 1):
        before, after = trace.value("resid_pre", layer), trace.value("resid_post", layer)
        attn, mlp = trace.value("attn_out", layer), trace.value("mlp_out", layer)
        assert torch.allclose(before + attn + mlp, after, rtol=1e-4, atol=1e-4)
        if name not in PARALLEL:
            assert torch.allclose(before + attn, trace.value("resid_mid", layer), rtol=1e-4, atol=1e-4)
        heads, rest = trace.head_writes(layer)
        assert heads.shape[1] == 4
        assert torch.allclose(heads.sum(1) + rest, attn[:, 0], rtol=1e-4, atol=1e-4)
        assert anatomy_of(loaded).block(layer).parallel == (name in PARALLEL)
    assert torch.allclose(trace.value("resid_post", 0), trace.value("resid_pre", 1))


@pytest.mark.parametrize(
    ("name", "scale"), [("llama", 1.0), ("granite", 1 / 3), ("cohere", 0.0625), ("gemma2", None)]
)
def test_what_logits_are_multiplied_by(name: str, scale: float | None) -> None:
    """A constant where logits are a multiple of the unembedding; None where they are capped."""
    found = anatomy_of(as_loaded(MODELS[name]())).scale
    assert found == (None if scale is None else pytest.approx(scale, rel=1e-5))


def test_constants_of_the_stream_are_found() -> None:
    """What is added is multiplied by 0.3 in that model."""
    block = anatomy_of(as_loaded(MODELS["granite"]())).block(1)
    assert block.attn is not None
    assert block.mlp is not None
    assert (block.attn.times, block.mlp.times) == (pytest.approx(0.3, rel=1e-4), pytest.approx(0.3, rel=1e-4))


def test_a_head_of_several_layers_is_refused() -> None:
    """BERT's masked-language head is no unembedding of the last state: what its logits are made of is not told."""
    model = made(BertLMHeadModel, BertConfig(**SIZES, is_decoder=True))
    with pytest.raises(CaptureError, match="something else than a norm"):
        anatomy_of(as_loaded(model))


@pytest.mark.parametrize("made", [tiny.t5, tiny.bert])
def test_models_without_a_decoder_alone_are_refused(made: Callable[[], Any]) -> None:
    """Encoders and encoder-decoders: the message says what circuits are found in."""
    with pytest.raises(UsageError, match="decoders that predict the next token"):
        anatomy_of(as_loaded(made()))


def test_a_layer_that_is_not_there_is_named() -> None:
    """With the layers that there are."""
    with pytest.raises(UsageError, match="layers 0 to 1"):
        anatomy_of(as_loaded(tiny.llama())).block(7)
