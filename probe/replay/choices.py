"""Continuations to choose among, as HellaSwag has them, made of shipped text: the true one and three from elsewhere.

A passage is cut into a context and what follows it. Beside the true continuation stand those of three other passages of
the same text. A model chooses the one with the lowest loss per token; what it knows of language decides, not a needle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.models import LoadedModel
from probe.prompts import haystack
from probe.prompts.data import default_text
from probe.replay.ordinary import FROM, opening
from probe.replay.reading import Reading
from probe.replay.work import Work

CONTEXT, WIDTH, EACH, OTHERS = 64, 24, 12, 3  # tokens, tokens, passages of each text, wrong continuations


@dataclass(frozen=True)
class Choice:
    """A context and continuations of the same length, the true one first."""

    context: list[int]
    endings: list[list[int]]


def choices(loaded: LoadedModel, seed: int = 0) -> list[Choice]:
    """`EACH` choices of the story, then of the haystack's last fifth, which no needle test reads."""
    tokenizer: Any = loaded.tokenizer
    first, draw = opening(loaded), np.random.default_rng(seed)
    made = []
    for text in (default_text(), haystack()[int(FROM * len(haystack())) :]):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        starts = np.linspace(0, len(tokens) - CONTEXT - WIDTH - 1, EACH).astype(int)
        parts = [[int(token) for token in tokens[start : start + CONTEXT + WIDTH]] for start in starts]
        for number, part in enumerate(parts):
            rest = [other for other in range(EACH) if other != number]
            wrong = [parts[int(other)][CONTEXT:] for other in draw.choice(rest, OTHERS, replace=False)]
            made.append(Choice(first + part[:CONTEXT], [part[CONTEXT:], *wrong]))
    return made


def chosen(
    work: Work, runs: Sequence[tuple[Sequence[Any], int | None]], block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of the true continuation in nats per token, and whether it is chosen: both ``[run, choice]``.

    Run 0 has no edit; then come those of each list, edited from its first row on (None: decode steps alone). Edits act
    from `block` on. Kept one by one, as ``choice 0``, …; a smoke check takes two.
    """
    items = work.few(choices(work.model, work.seed), 2)
    rows = [
        work.keep(f"choice {number}", _by_run, work.model, item, runs, block)
        for number, item in enumerate(items)
    ]
    losses = np.asarray(rows, np.float64).transpose(1, 0, 2)  # run, choice, ending
    return losses[:, :, 0], losses.argmin(2) == 0


def _by_run(
    loaded: LoadedModel, item: Choice, runs: Sequence[tuple[Sequence[Any], int | None]], block: int
) -> list[list[float]]:
    reading = Reading(loaded, item.context, block)
    last = len(item.context) - 1
    found = [reading.losses(item.endings, (), last)]
    for edits, rows in runs:
        found += [reading.losses(item.endings, [one], last if rows is None else rows) for one in edits]
    return found
