"""Loss on ordinary text, decoded: one token is the prompt, and the rest continues it, so that decode edits act too."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from finished import Finished
from heads import subject
from reading import Reading, under

from probe.prompts import haystack
from probe.prompts.data import default_text

WIDTH, EACH = 512, 4  # tokens of a passage, and passages of each text
_FROM = 0.8  # of the haystack: no needle test reads so far


@dataclass(frozen=True)
class Losses:
    """Nats per token by passage, and by run for each list of edits."""

    base: np.ndarray
    edited: tuple[np.ndarray, ...]
    width: int
    source: str


def losses(runs: Sequence[Sequence[Any]], block: int, finished: Finished, small: bool = False) -> Losses:
    """The loss of every passage without edits, and under each edit of each list; edits act from `block` on."""
    rows = [
        finished.of(f"passage {number}", partial(_by_run, tokens, runs, block))
        for number, tokens in enumerate(passages())
        if number % EACH == 0 or not small
    ]
    found, cuts = np.asarray(rows).T, np.cumsum([1, *map(len, runs)])
    return Losses(
        found[0],
        tuple(found[start:stop] for start, stop in pairwise(cuts)),
        WIDTH,
        f"{EACH} passages of the shipped story (modern prose) and {EACH} of the last fifth of the haystack (King James "
        "Bible), which no needle test reads",
    )


def _by_run(tokens: list[int], runs: Sequence[Sequence[Any]], block: int) -> list[float]:
    reading = Reading(subject(), tokens, block)
    return [_loss(reading), *(_loss(reading, [one]) for kind in runs for one in kind)]


def passages() -> list[list[int]]:
    """Stretches of `WIDTH` tokens: of the story, then of the haystack's last fifth, evenly spaced."""
    made = []
    for text in (default_text(), haystack()[int(_FROM * len(haystack())) :]):
        tokens = subject().tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in np.linspace(0, len(tokens) - WIDTH - 1, EACH).astype(int):
            made.append([int(token) for token in tokens[start : start + WIDTH]])
    return made


def _loss(reading: Reading, edits: Sequence[Any] = ()) -> float:
    with under(reading.loaded, edits):
        logits = reading.decoded()
    return float(torch.nn.functional.cross_entropy(logits, reading.ids[0, 2:]))
