"""How sure a mean over prompts is: bootstrap intervals, over groups of prompts where these hang together."""

from collections.abc import Sequence

import numpy as np

DRAWS = 2000


def interval(
    values: np.ndarray, groups: Sequence[object] | None = None, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`; whole `groups` are drawn where they are given.

    Prompts that share a needle are no independent draws: with `groups` the interval is over needles.
    """
    kinds = list(range(len(values))) if groups is None else list(groups)
    if len(kinds) != len(values):
        raise ValueError(f"{len(values)} values and {len(kinds)} groups were given; give one group per value")
    _, member = np.unique(np.asarray(kinds).astype(str), return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member)
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def shown(values: np.ndarray, groups: Sequence[object] | None = None, digits: int = 2) -> str:
    """A mean with its interval: ``0.93 [0.85, 0.99]``."""
    low, high = interval(values, groups)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def spread(by_seed: np.ndarray, digits: int = 2) -> str:
    """The mean over seeds of the mean over prompts, with the lowest and the highest seed."""
    means = by_seed.mean(1)
    return f"{means.mean():.{digits}f} ({means.min():.{digits}f} – {means.max():.{digits}f})"
