"""What a model's own eager attention gives: the weights of every call, captured without the code under test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from subjects.subject import Inputs
from torch import Tensor, nn
from transformers import AttentionInterface


@dataclass(frozen=True)
class Weights:
    """One call's weights, ``[batch, head, query, key]``, in float64, and the module that made it."""

    module: str
    pattern: Tensor


@contextmanager
def recording(model: nn.Module, into: list[Weights]) -> Iterator[None]:
    """Record every eager attention call of the registry, in order."""
    names = {id(module): name for name, module in model.named_modules()}

    def record(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        own = sys.modules[type(module).__module__].eager_attention_forward
        out, weights = own(module, *args, **kwargs)
        into.append(Weights(names[id(module)], weights.detach().double()))
        return out, weights

    AttentionInterface.register("eager", record)
    try:
        yield
    finally:
        AttentionInterface._global_mapping.pop("eager")


def go_eager(model: nn.Module) -> None:
    """Eager attention in every sub-model, also where `set_attn_implementation` leaves the old one in place."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) is not None:
            config._attn_implementation = "eager"


def eager_weights(model: nn.Module, inputs: Inputs) -> list[Weights]:
    """The weights of every registry call of one eager forward; turns `model` to eager for good."""
    go_eager(model)
    seen: list[Weights] = []
    with torch.no_grad(), recording(model, seen):
        model(**inputs)
    return seen


def returned_weights(model: nn.Module, inputs: Inputs) -> list[Weights]:
    """The weights that a model returns when asked, for models that never reach the registry."""
    go_eager(model)
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    keys = ("encoder_attentions", "attentions", "decoder_attentions", "cross_attentions")
    return [Weights(f"{key}.{i}", w.double()) for key in keys for i, w in enumerate(output.get(key) or ())]
