"""Receiver heads: how peaked over sentences the attention is that a head gives them from afar (Bogdan et al. 2025)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata

from probe.metrics.received import kurtosis

RESAMPLES = 1000


def verticals(
    between: Float[np.ndarray, "*head sentence source"], proximity: int, *, control_depth: bool = False
) -> Float[np.ndarray, "*head source"]:
    """vert[b] = mean over a >= b + proximity of M[a, b]; NaN for the last `proximity` sentences.

    Args:
        between: M, mean pattern cell of (sentence, source).
        proximity: cells with a − b below it do not count.
        control_depth: put the rank of each cell among those of its row that count, over their number, in its place: so
            that late rows, whose attention is spread over more sentences, weigh as much as early ones.
    """
    count = between.shape[-1]
    at = np.arange(count)
    counts = at[:, None] - at >= proximity
    if control_depth:
        between = _ranked(between, proximity)
    total = np.where(counts, between, 0.0).sum(-2)
    rows = counts.sum(0)
    return np.where(rows > 0, total / np.maximum(rows, 1), np.nan)


def _ranked(between: np.ndarray, proximity: int) -> np.ndarray:
    """Ranks within a row's first a − proximity + 1 cells, divided by their number: in (0, 1]."""
    ranks = np.zeros_like(between)
    for row in range(proximity, between.shape[-1]):
        cells = row - proximity + 1
        ranks[..., row, :cells] = rankdata(between[..., row, :cells], axis=-1) / cells
    return ranks


def receiver_kurtosis(vert: Float[np.ndarray, "*head source"]) -> Float[np.ndarray, "*head"]:
    """Fisher's biased kurtosis over the sentences that have a value; NaN where these do not differ."""
    defined = ~np.isnan(vert).all(tuple(range(vert.ndim - 1)))
    return kurtosis(torch.from_numpy(vert[..., defined])).numpy()


def highest_heads(values: Float[np.ndarray, "layer head"], count: int) -> Float[np.ndarray, "layer head"]:
    """1 for the `count` heads with the largest value, 0 for others, NaN where undefined; of equal ones the earlier."""
    flat = values.ravel()
    order = np.argsort(np.where(np.isnan(flat), np.inf, -flat), kind="stable")[:count]
    chosen = np.where(np.isnan(flat), np.nan, 0.0)
    chosen[order] = np.where(np.isnan(flat[order]), np.nan, 1.0)
    return chosen.reshape(values.shape)


@dataclass(frozen=True)
class Reliability:
    """Correlation over heads of the mean kurtosis of odd and of even prompts, with a 95 % interval over prompts."""

    value: float
    low: float
    high: float
    heads: int


def reliability(kurtoses: Float[np.ndarray, "prompt layer head"], seed: int) -> Reliability:
    """Split-half reliability: Pearson correlation, over heads, of two means over prompts, every other prompt in each.

    The interval is the percentile bootstrap that draws prompts anew within each half; undefined (NaN) below two prompts
    in either half, and everything below one. Heads that are undefined in either half do not count.
    """
    flat = kurtoses.reshape(len(kurtoses), -1)
    halves = flat[0::2], flat[1::2]
    value, heads = _correlation(*map(mean_defined, halves))
    if min(map(len, halves)) < 2:
        return Reliability(value, np.nan, np.nan, heads)
    random = np.random.default_rng(seed)
    draws = [
        _correlation(*(mean_defined(half[random.integers(0, len(half), len(half))]) for half in halves))[0]
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(draws, [0.025, 0.975]) if not np.isnan(draws).all() else (np.nan, np.nan)
    return Reliability(value, float(low), float(high), heads)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over prompts of the defined values, NaN where none is."""
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(0) / np.maximum(count, 1), np.nan)


def _correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    known = ~np.isnan(one) & ~np.isnan(other)
    if known.sum() < 3 or np.ptp(one[known]) == 0 or np.ptp(other[known]) == 0:
        return np.nan, int(known.sum())
    return float(np.corrcoef(one[known], other[known])[0, 1]), int(known.sum())
