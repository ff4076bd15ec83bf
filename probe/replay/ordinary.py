"""Loss on ordinary text, decoded: one token is the prompt, and the rest continues it, so that decode edits act too."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from probe.models import LoadedModel
from probe.prompts import haystack
from probe.prompts.data import default_text
from probe.replay.reading import Reading, under
from probe.replay.work import Work

WIDTH, EACH = 512, 4  # tokens of a passage, and passages of each text
FROM = 0.8  # of the haystack: no needle test reads so far
SOURCE = (
    f"{EACH} passages of the shipped story (modern prose) and {EACH} of the last fifth of the haystack (King James "
    "Bible), which no needle test reads"
)


@dataclass(frozen=True)
class Losses:
    """Nats per token by passage, and by run for each list of edits."""

    base: np.ndarray
    edited: tuple[np.ndarray, ...]
    width: int


def losses(work: Work, runs: Sequence[Sequence[Any]], block: int) -> Losses:
    """The loss of every passage without edits, and under each edit of each list; edits act from `block` on.

    Passages are kept one by one, as ``passage 0``, …; a smoke check takes one of each text.
    """
    rows = [
        work.keep(f"passage {number}", _by_run, work.model, tokens, runs, block)
        for number, tokens in enumerate(passages(work.model))
        if number % EACH == 0 or not work.small
    ]
    found, cuts = np.asarray(rows).T, np.cumsum([1, *map(len, runs)])
    return Losses(
        found[0],
        tuple(found[start:stop] for start, stop in pairwise(cuts)),
        WIDTH,
    )


def _by_run(loaded: LoadedModel, tokens: list[int], runs: Sequence[Sequence[Any]], block: int) -> list[float]:
    reading = Reading(loaded, tokens, block)
    return [_loss(reading), *(_loss(reading, [one]) for kind in runs for one in kind)]


def passages(loaded: LoadedModel) -> list[list[int]]:
    """Stretches of `WIDTH` tokens: of the story, then of the haystack's last fifth, evenly spaced.

    Where the tokenizer puts a token in front of a text, each begins with it.
    """
    tokenizer: Any = loaded.tokenizer
    first = opening(loaded)
    width = WIDTH - len(first)
    made = []
    for text in (default_text(), haystack()[int(FROM * len(haystack())) :]):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in np.linspace(0, len(tokens) - width - 1, EACH).astype(int):
            made.append(first + [int(token) for token in tokens[start : start + width]])
    return made


def opening(loaded: LoadedModel) -> list[int]:
    """The token that the tokenizer puts in front of a text, if any: Gemma's does, SmolLM2's does not."""
    tokenizer: Any = loaded.tokenizer
    bos = tokenizer.bos_token_id
    return [int(bos)] if bos is not None and tokenizer("a")["input_ids"][0] == bos else []


def _loss(reading: Reading, edits: Sequence[Any] = ()) -> float:
    with under(reading.loaded, edits):
        logits = reading.decoded()
    return float(torch.nn.functional.cross_entropy(logits, reading.ids[0, 2:]))
