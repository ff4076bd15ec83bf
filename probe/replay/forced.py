"""Needles out of a window's sight, and how much of an answer a model says when it is given the true tokens before."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from probe.models import LoadedModel
from probe.prompts import HiddenNeedle, Prompt, haystack, hide, needles
from probe.replay.needles import DETECTED_WITH, FROM, TO
from probe.replay.reading import under

DEPTHS = (0.1, 0.4)  # far from the question: a window of a fifth of the prompt does not hold them


def far_needles(loaded: LoadedModel, count: int, length: int, seed: int = 0) -> list[Prompt]:
    """`count` held-out needles in `length` tokens of a held-out stretch of the haystack, none near the question."""
    draw = np.random.default_rng(seed)
    made = []
    for number, needle in enumerate(needles()[DETECTED_WITH : DETECTED_WITH + count]):
        start = int(draw.integers(int(len(haystack()) * FROM), int(len(haystack()) * TO)))
        hidden = HiddenNeedle(needle, length, DEPTHS[number % len(DEPTHS)], "complete", start)
        made.append(hide(hidden, loaded.tokenizer))
    return made


def distance_of(prompt: Prompt) -> int:
    """Tokens from the last token of the hidden answer to the end of the prompt."""
    return len(prompt) - 1 - int(np.flatnonzero(prompt.spans["answer"])[-1])


def forced_recall(loaded: LoadedModel, prompt: Prompt, edits: Sequence[Any] = ()) -> list[float]:
    """Share of the answer's tokens that are the model's first choice, each after the true ones, and their mean loss."""
    tokenizer: Any = loaded.tokenizer
    told = tokenizer(f" {prompt.answer}", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt.tokens, *told[:-1]]], device=loaded.device)
    with under(loaded, edits):
        logits = loaded.model(input_ids=ids, use_cache=False, logits_to_keep=len(told)).logits[0].float()
    wanted = torch.tensor(told, device=logits.device)
    right = float((logits.argmax(-1) == wanted).float().mean())
    return [right, float(torch.nn.functional.cross_entropy(logits, wanted))]
