"""Tiny random models for tests of the seam, made from configs with a seed; nothing is downloaded."""

import torch
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _make(kind: type[PreTrainedModel], config: object, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = kind(config).eval()
    # Random weights of the usual size attend almost uniformly; sharper ones make a wrong mask visible.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6.0)
    return model


def llama(**changes: object) -> LlamaForCausalLM:
    """Grouped queries, plain causal attention."""
    return _make(LlamaForCausalLM, LlamaConfig(**{**SMALL, **IDS, "num_key_value_heads": 2, **changes}))


def mistral(**changes: object) -> MistralForCausalLM:
    """A sliding window of 5."""
    config = {**SMALL, **IDS, "num_key_value_heads": 2, "sliding_window": 5, **changes}
    return _make(MistralForCausalLM, MistralConfig(**config))


def gemma3(**changes: object) -> Gemma3ForCausalLM:
    """Sliding and full layers mixed."""
    config = {
        **SMALL, **IDS, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"], **changes,
    }  # fmt: skip
    return _make(Gemma3ForCausalLM, Gemma3TextConfig(**config))


def gpt_oss() -> GptOssForCausalLM:
    """Learned sinks, eager by default, a sliding layer."""
    config = {
        **SMALL, **IDS, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2,
        "num_experts_per_tok": 1, "sliding_window": 5,
    }  # fmt: skip
    return _make(GptOssForCausalLM, GptOssConfig(**config))


def bert() -> BertModel:
    """A bidirectional encoder."""
    return _make(BertModel, BertConfig(**SMALL, pad_token_id=0))


def t5() -> T5ForConditionalGeneration:
    """Encoder, decoder and cross-attention, with position bias."""
    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        vocab_size=64,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    return _make(T5ForConditionalGeneration, config)


def bloom() -> BloomForCausalLM:
    """Bypasses the registry, returns weights when asked."""
    return _make(BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64, **IDS))


def tokens(batch: int = 2, length: int = 12, seed: int = 1) -> torch.Tensor:
    """Random token ids, without the special ones."""
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))
