"""The sentence that an answer comes from, by where a head looks from each answer token (AttnAttrib)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.prompts import Prompt
from probe.prompts.sentences import Sentence, sentences

WINDOW = 5  # tokens round the token that is looked at most


@dataclass(frozen=True)
class Asking:
    """A prompt's sentences: the context, and the question (the last sentence), which begins at token `start`."""

    context: tuple[Sentence, ...]
    start: int

    @classmethod
    def of(cls, prompt: Prompt) -> "Asking":
        """Split a prompt; a prompt of one sentence has no context."""
        found = sentences(prompt)
        return cls(tuple(found[:-1]), found[-1].start if found else 0)

    def sentence_of(self, token: int) -> int | None:
        """The number of the context's sentence that a token is in."""
        return next((n for n, one in enumerate(self.context) if one.start <= token < one.stop), None)


def peaks(rows: Float[Tensor, "*head answer key"], stop: int) -> Int[Tensor, "*head answer"]:
    """The token of the context that is looked at most from each answer token; the first token is left out."""
    return rows[..., 1:stop].argmax(-1) + 1


def sentence_scores(
    rows: Float[Tensor, "answer key"], context: Sequence[Sentence], window: int = WINDOW
) -> Float[np.ndarray, " sentence"]:
    """The largest attention that falls on each sentence within the windows round the answer tokens' peaks, 0 to 1.

    A window has `window` tokens, the peak in its middle. The first token is in no window.
    """
    stop = context[-1].stop
    inside = torch.zeros_like(rows[:, :stop], dtype=torch.bool)
    for answer, peak in enumerate(peaks(rows, stop).tolist()):
        inside[answer, max(1, peak - window // 2) : peak + (window + 1) // 2] = True
    seen = torch.where(inside, rows[:, :stop], 0.0)
    return np.array([float(seen[:, one.start : one.stop].max()) for one in context])
