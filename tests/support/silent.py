"""A GPT-2 in which nothing adds anything to the stream: what models wired by hand start from."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def silent_gpt2(vocab: int, positions: int, width: int, shape: tuple[int, int], end: int) -> GPT2LMHeadModel:
    """All weights 0 but those of norms; `shape` is layers and heads, `end` the token that ends a text."""
    layers, heads = shape
    config = GPT2Config(
        vocab_size=vocab, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads, bos_token_id=None,
        tie_word_embeddings=False, eos_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
    return model
