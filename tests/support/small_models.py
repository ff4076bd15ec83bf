"""Small random models and a tokenizer, made without a download, for tests of whole runs."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

LETTERS = ["<pad>", "</s>", *" abcdefghijklmnopqrstuvwxyz.,ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
SMALL = {
    "vocab_size": len(LETTERS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


def letters() -> PreTrainedTokenizerFast:
    """One token per letter."""
    base = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="<pad>"))
    base.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    base.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="</s>")


def llama(**changes: object) -> PreTrainedModel:
    """Grouped-query decoder, 2 layers of 4 heads on 2 key/value heads."""
    return sharp(LlamaForCausalLM(LlamaConfig(**{**SMALL, "num_key_value_heads": 2, **changes})))


def mistral() -> PreTrainedModel:
    """Decoder with a sliding window of 8."""
    config = MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8)
    return sharp(MistralForCausalLM(config))


def gpt2() -> PreTrainedModel:
    """Decoder with learned absolute positions."""
    return sharp(
        GPT2LMHeadModel(GPT2Config(vocab_size=len(LETTERS), n_embd=32, n_layer=2, n_head=4, n_positions=128))
    )


def bert() -> PreTrainedModel:
    """Bidirectional encoder."""
    return sharp(BertModel(BertConfig(**SMALL), add_pooling_layer=False))


def t5() -> PreTrainedModel:
    """Encoder-decoder with a learned position bias."""
    config = T5Config(
        vocab_size=len(LETTERS),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return sharp(T5ForConditionalGeneration(config))


def vit() -> PreTrainedModel:
    """Vision encoder: 17 patches."""
    return sharp(
        ViTModel(
            ViTConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
            ),
            add_pooling_layer=False,
        )
    )


def sharp(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that patterns are far from uniform, the same at every call."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                spread = 1.5 / parameter.shape[1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * spread)
    return model.eval()
