"""Tiny models as experiments are given them, and prompts of random tokens."""

import tiny
from torch import nn

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt


def given(model: nn.Module) -> LoadedModel:
    """A model without a tokenizer."""
    return LoadedModel(model, None, "tiny", ModelSource("given"))


def prompt(length: int, name: str = "one") -> Prompt:
    """The first random tokens."""
    return Prompt.of_tokens(tiny.tokens(1, length)[0].tolist(), id=name)
