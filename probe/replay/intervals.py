"""How sure a mean is: bootstrap intervals over prompts, or over groups of prompts where these hang together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.errors import UsageError
from probe.replay.finding import Estimate

DRAWS = 2000


def interval(
    values: Any, groups: Sequence[object] | None = None, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`; whole `groups` are drawn where they are given.

    Prompts that share a needle are no independent draws: with `groups` the interval is over needles.
    Raises `UsageError` where there is not one group per value.
    """
    values = np.asarray(values, np.float64)
    kinds = list(range(len(values))) if groups is None else list(groups)
    if len(kinds) != len(values):
        raise UsageError(f"{len(values)} values and {len(kinds)} groups were given; give one group per value")
    _, member = np.unique(np.asarray(kinds).astype(str), return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member)
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean(values: Any, groups: Sequence[object] | None = None, digits: int = 2) -> Estimate:
    """The mean of `values` with its 95 % bootstrap interval: ``0.93 [0.85, 0.99]``."""
    low, high = interval(values, groups)
    return Estimate(float(np.mean(values)), low, high, "interval", digits)


def statistic(values: Any, of: Any, digits: int = 2, *, seed: int = 0) -> Estimate:
    """A statistic of `values` with its 95 % bootstrap interval over their first axis.

    `of` takes an array whose first axis are prompts (or sentences, or documents) and gives one number: a correlation,
    a median, a share. Resamples where it is not finite (a correlation of a constant) do not count.
    """
    values = np.asarray(values)
    draw = np.random.default_rng(seed).integers(0, len(values), size=(DRAWS, len(values)))
    found = np.asarray([of(values[rows]) for rows in draw], np.float64)
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (np.nan, np.nan)
    return Estimate(float(of(values)), float(low), float(high), "interval", digits)


def spread(by_seed: Any, digits: int = 2) -> Estimate:
    """The mean over seeds (axis 0) of the mean over prompts, with the lowest and the highest seed."""
    means = np.asarray(by_seed, np.float64).mean(1)
    return Estimate(float(means.mean()), float(means.min()), float(means.max()), "range", digits)
