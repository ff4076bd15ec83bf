"""Rank correlation within texts, pooled over them: its interval, its shuffles, and what place leaves of it."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from probe.replay.finding import Estimate
from probe.replay.intervals import statistic

SHUFFLES = 999

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]  # by text, two numbers of each of its sentences


def spearman(texts: Pairs, *, fixed: bool = False) -> Estimate:
    """Spearman's correlation within each text, pooled, with its interval over texts.

    With `fixed`, of what a line over the place in the text leaves of the ranks: a partial correlation.
    """
    return statistic(_moments(texts, fixed), _pooled)


def shuffled(texts: Pairs, seed: int, *, fixed: bool = False) -> np.ndarray:
    """The same correlation after each of `SHUFFLES` shuffles of the first number within every text."""
    random = np.random.default_rng(seed)
    drawn = ([(random.permutation(one), other) for one, other in texts] for _ in range(SHUFFLES))
    return np.asarray([_pooled(_moments(each, fixed)) for each in drawn])


def above(value: Estimate, drawn: np.ndarray) -> float:
    """p: the share of draws that are at least as large, the value itself counted."""
    return float((1 + (drawn >= value.value).sum()) / (1 + len(drawn)))


def drawn_range(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of several draws, with the lowest and the highest."""
    return Estimate(float(np.mean(values)), float(np.min(values)), float(np.max(values)), "range")


def _moments(texts: Pairs, fixed: bool) -> np.ndarray:
    """By text, Σxy, Σxx and Σyy of centred ranks."""
    rows = []
    for pair in texts:
        x, y = (rankdata(values) - (len(values) + 1) / 2 for values in pair)
        if fixed:
            place = np.arange(len(x)) - (len(x) - 1) / 2
            x, y = (values - place * (values @ place) / (place @ place) for values in (x, y))
        rows.append([x @ y, x @ x, y @ y])
    return np.asarray(rows)


def _pooled(rows: np.ndarray) -> float:
    xy, xx, yy = rows.sum(0)
    return float(xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else np.nan
