"""Needle tests as claims count them: which share of an answer each head copied, one kept value per test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from probe.experiments.base import Ask
from probe.experiments.copy_tests import CopyTest, run_tests
from probe.models import LoadedModel
from probe.prompts import HiddenNeedle, Style, haystack, hide, needles
from probe.replay.work import Work


@dataclass(frozen=True)
class Hide:
    """Which needles are hidden, by number, how long and how deep; each in a stretch of the haystack of its own."""

    which: tuple[int, ...]
    length: int
    depths: tuple[float, ...]
    style: Style = "complete"


@dataclass(frozen=True)
class Copied:
    """Tests and what heads copied in them.

    Attributes:
        needles: of each test, the needle's name.
        counted: whether the model found it.
        scores: share of the answer's tokens that each head copied, [test, layer, head]; also of tests not counted.
    """

    needles: tuple[str, ...]
    counted: np.ndarray
    scores: Float[np.ndarray, "test layer head"]

    @property
    def found(self) -> Float[np.ndarray, "test layer head"]:
        """The scores of the tests that count."""
        return np.asarray(self.scores[self.counted])

    @property
    def found_needles(self) -> list[str]:
        """The needles of the tests that count."""
        return [name for name, counts in zip(self.needles, self.counted, strict=True) if counts]


def copied(work: Work, hidden: Hide) -> Copied:
    """Run the tests, each kept under its name; a smoke check runs two."""
    tests = work.few(copy_tests(work.model, hidden, work.seed))
    rows = [work.keep(f"{one.prompt.id}:{hidden.style}", score_of, work.model, one) for one in tests]
    return Copied(
        tuple(one.prompt.id.split(":")[1] for one in tests),
        np.array([row["counted"] for row in rows], dtype=bool),
        np.stack([_whole(row, rows) for row in rows]),
    )


def copy_tests(loaded: LoadedModel, hidden: Hide, seed: int) -> list[CopyTest]:
    """The prompts: every needle at every depth, in the first half of the haystack, as detection does it."""
    draw = np.random.default_rng(seed)
    starts = draw.integers(0, len(haystack()) // 2, size=len(needles()))
    return [
        CopyTest(
            hide(
                HiddenNeedle(needles()[number], hidden.length, depth, hidden.style, int(starts[number])),
                loaded.tokenizer,
            ),
            hidden.length,
            depth,
        )
        for number in hidden.which
        for depth in hidden.depths
    ]


def score_of(loaded: LoadedModel, test: CopyTest) -> dict[str, Any]:
    """One test: whether it counts, layers and heads there are, and the scores above 0 by ``layer.head``."""
    (outcome,) = run_tests(Ask(loaded), [test], "claim")
    scores = {
        f"{layer}.{head}": float(values[head])
        for layer, values in sorted(outcome.scores.items())
        for head in np.flatnonzero(values)
    }
    # A model that stops at once shows no head at all.
    shape = [len(outcome.heads), max(outcome.heads.values(), default=0)]
    return {"counted": outcome.counted, "shape": shape, "scores": scores}


def _whole(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Float[np.ndarray, "layer head"]:
    """The scores of one test as a map, as large as that of any test."""
    grid = np.zeros(np.max([one["shape"] for one in rows], axis=0))
    for name, score in row["scores"].items():
        layer, head = map(int, name.split("."))
        grid[layer, head] = score
    return grid


def shuffled_in_layers(values: Float[np.ndarray, "layer head"], seed: int) -> Float[np.ndarray, "layer head"]:
    """The same numbers, each given to another head of its layer: what the layer profile alone would show."""
    return np.random.default_rng(seed).permuted(values, axis=1)


def ranks_agree(one: np.ndarray, two: np.ndarray) -> float:
    """Spearman's rank correlation over heads; NaN where one is constant."""
    from scipy.stats import spearmanr

    a, b = one.ravel(), two.ravel()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def held_by(values: np.ndarray, share: float) -> float:
    """Share of the sum that the largest `share` of the values has."""
    flat = np.sort(values.ravel())[::-1]
    return float(flat[: max(1, round(share * len(flat)))].sum() / flat.sum()) if flat.sum() else float("nan")
