"""Mass that sparse patterns keep, read off at one density: patterns whose budget is not a density are interpolated."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from probe.analysis.patterning.patterns import patterns
from probe.models import LoadedModel
from probe.prompts import Prompt


def kept_by(loaded: LoadedModel, prompt: Prompt, specs: Sequence[str]) -> list[list[float]]:
    """Per pattern its density and the mass it keeps, means over all heads; the model runs once, dense."""
    report = patterns(loaded, prompt, list(specs), control=False)
    return [[float(report[f"{spec}/{what}"].mean()) for what in ("density", "mass_kept")] for spec in specs]


def at_density(points: Float[np.ndarray, "budget 2"], density: float) -> float:
    """Mass kept at a density, on straight lines between budgets, from (0, 0) to (1, 1).

    >>> at_density(np.array([[0.2, 0.6], [0.4, 0.8]]), 0.3).__round__(6)
    0.7
    """
    order = points[np.argsort(points[:, 0])]
    return float(np.interp(density, [0.0, *order[:, 0], 1.0], [0.0, *order[:, 1], 1.0]))


def powers_kept(n: int, block: int, local: int = 2) -> Bool[np.ndarray, "n n"]:
    """Which keys `power_of_two` keeps for each query of `n` tokens, the first block included."""
    at = np.arange(n)
    apart = at[:, None] // block - at[None] // block
    near = (apart < local) | (apart & (apart - 1) == 0) | (at[None] < block)
    kept: np.ndarray = near & (at[:, None] >= at[None])
    return kept


def window_like(kept: Bool[np.ndarray, "n n"], sinks: int) -> int:
    """The window which, with `sinks` first keys, keeps as many pairs as `kept`, or the nearest number below."""
    seen = np.arange(1, len(kept) + 1)
    low, high = 1, len(kept)
    while low < high:
        middle = (low + high + 1) // 2
        pairs = np.minimum(seen, middle + np.minimum(sinks, np.maximum(seen - middle, 0))).sum()
        low, high = (middle, high) if pairs <= kept.sum() else (low, middle - 1)
    return low
