"""A small model on letters, and the same with heads taken out of its weights, computed densely."""

from typing import Any

import small_models
import torch
import torch.nn.functional as functional
from torch import Tensor

import probe
from probe.prompts import Prompt

EDITED = ["L0.H1", "L1.H2"]
TEXTS = ["the quick brown fox jumps.", "Over the lazy dog, again and again"]


def letters_model(**changes: Any) -> tuple[Any, Any]:
    """The small model and a tokenizer of letters."""
    return small_models.llama(**changes), small_models.letters()


def without(heads: list[str]) -> Any:
    """The small model with the columns of the output projection zeroed that read these heads."""
    model: Any = small_models.llama()
    width = model.config.hidden_size // model.config.num_attention_heads
    for head in map(probe.HeadId.parse, heads):
        weight = model.model.layers[head.layer].self_attn.o_proj.weight
        weight.data[:, head.head * width : (head.head + 1) * width] = 0.0
    return model


def own_logits(model: Any, prompt: Prompt) -> Tensor:
    """What the model itself says of every token of a prompt, in float64."""
    with torch.no_grad():
        logits: Tensor = model.double()(torch.tensor([prompt.tokens])).logits[0]
    return logits


def dense_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """The cross-entropy of every token but the first."""
    return functional.cross_entropy(logits[:-1].double(), tokens[1:], reduction="none")
