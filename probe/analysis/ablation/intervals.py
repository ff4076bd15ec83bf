"""How far the numbers of an ablation would move with other prompts of the same kind."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probe.analysis.ablation.measures import WEIGHTS
from probe.report.intervals import RESAMPLES, weighed_bounds

Values = Mapping[str, Mapping[str, np.ndarray]]  # run -> measure -> value per prompt


def intervals(values: Values, weights: Mapping[str, np.ndarray], level: float, seed: int) -> dict[str, Any]:
    """Percentile bootstrap over prompts of every run's means, and of the paired differences between runs.

    All share their draws, and a difference is taken prompt by prompt before it is averaged, so that prompts which are
    hard for every run do not widen it. Bounds are ``[low, high]``; null where fewer than two prompts have a value.
    Perplexity's are those of the loss, to the power of e.
    """
    prompts = len(next(iter(weights.values())))
    found: dict[str, Any] = {
        "level": level,
        "prompts": prompts,
        "resamples": RESAMPLES,
        "seed": seed,
        "note": "",
    }
    if prompts < 2:
        found["note"] = f"intervals need at least two prompts, the run had {prompts}: they are null"
    for run, measures in {**values, **_differences(values)}.items():
        found[run] = {
            name: _bounds(one, weights[WEIGHTS[name]], level, seed) for name, one in measures.items()
        }
        if "_minus_" not in run:
            loss = found[run]["loss"]
            found[run]["perplexity"] = None if loss is None else [float(np.exp(bound)) for bound in loss]
    return found


def _differences(values: Values) -> Values:
    """The edited run against the base and against the control, prompt by prompt."""
    pairs = [("edited", other) for other in ("base", "control") if other in values]
    return {
        f"{one}_minus_{other}": {name: values[one][name] - values[other][name] for name in values[one]}
        for one, other in pairs
    }


def _bounds(values: np.ndarray, weights: np.ndarray, level: float, seed: int) -> list[float] | None:
    known = np.isfinite(values) & (weights > 0)
    if known.sum() < 2:
        return None
    bounds = weighed_bounds(values[known][:, None], weights[known][:, None].astype(np.float64), level, seed)
    return [float(bounds[0, 0]), float(bounds[1, 0])]
