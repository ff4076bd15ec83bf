"""Which tokens of a prompt are the response: what the model answered, or the whole text where nobody answered."""

from typing import Any

import numpy as np

from probe.errors import InputError
from probe.experiments.base import Ask
from probe.prompts import Prompt


def stretch(prompt: Prompt) -> tuple[int, int]:
    """First token and end of the span ``response``, or ``(0, length)`` where that is empty.

    Raises:
        InputError: the response lies in several pieces.
    """
    at = np.flatnonzero(prompt.spans["response"])
    if not at.size:
        return 0, len(prompt)
    start, stop = int(at[0]), int(at[-1]) + 1
    if stop - start != at.size:
        raise InputError(
            f"the response of prompt {prompt.id!r} was asked; it lies in several pieces: name one stretch of tokens"
        )
    return start, stop


def up_to_response(prompt: Prompt) -> Prompt:
    """The prompt without what follows its response, which no token of the response can see."""
    return prompt.truncate(stretch(prompt)[1])


def decoder_reads(ask: Ask) -> str | None:
    """Why there is no text that a causal decoder could read, or None."""
    config: Any = getattr(ask.model.model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return "it needs a decoder that reads the text itself, not through an encoder"
    if not ask.prompts and ask.model.tokenizer is None:
        return "it needs text: give prompts of token ids, or a tokenizer"
    return None
