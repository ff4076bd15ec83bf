"""Bootstrap intervals over prompts: how far a head's value would move with other prompts of the same kind."""

import numpy as np
import xarray as xr

from probe.errors import ReportError
from probe.report.answer import Answer

RESAMPLES = 2000


def bootstrap(answer: Answer, level: float = 0.95, seed: int = 0) -> xr.DataArray:
    """Percentile bootstrap interval per head over prompts: axes (bound, layer, head), in the metric's unit.

    Each resample draws as many prompts as there are and takes their mean: weighed by the coordinate
    ``weight`` of `Answer.by_prompt` where it has one (so that long prompts count as in the head map), else
    all alike. Values that are undefined in a prompt do not count. Attributes state level, prompts,
    resamples and weighing, and in ``note`` why an interval is missing. Efron & Tibshirani, An Introduction
    to the Bootstrap, 1993, ch. 13.

    Raises:
        ReportError: the level is not between 0 and 1, or the answer keeps no values per prompt.
    """
    if not 0.0 < level < 1.0:
        raise ReportError(
            f"intervals were asked at level {level}; write a number between 0 and 1, such as 0.95"
        )
    if answer.by_prompt is None:
        raise ReportError(
            f"intervals of {answer.spec!r} were asked; it keeps no values per prompt: analyze with by_prompt=True"
        )
    values = answer.by_prompt.transpose("prompt", ...)
    prompts = values.sizes["prompt"]
    first = values.isel(prompt=0, drop=True)
    attrs = {
        "level": level,
        "prompts": prompts,
        "resamples": RESAMPLES,
        "seed": seed,
        "weighing": "by weight" if "weight" in values.coords else "prompts alike",
        "note": _note(prompts),
    }
    bounds = np.full((2, *first.shape), np.nan)
    if prompts > 1:
        bounds = weighed_bounds(np.asarray(values.values, np.float64), _weights(values), level, seed)
    coords = {name: coord for name, coord in first.coords.items() if set(coord.dims) <= set(first.dims)}
    coords.pop("weight", None)
    return xr.DataArray(
        bounds, {"bound": ["low", "high"], **coords}, ("bound", *first.dims), name=answer.spec, attrs=attrs
    )


def _note(prompts: int) -> str:
    if prompts > 1:
        return ""
    return f"intervals need at least two prompts, the run had {prompts}: all bounds are undefined"


def _weights(values: xr.DataArray) -> np.ndarray:
    weight = values.coords["weight"] if "weight" in values.coords else xr.ones_like(values, dtype=np.float64)
    return np.asarray(weight.broadcast_like(values).transpose(*values.dims).values, np.float64)


def weighed_bounds(values: np.ndarray, weights: np.ndarray, level: float, seed: int) -> np.ndarray:
    """Percentile bounds ``[2, ...]`` of weighed means over prompts; `values` and `weights` are ``[prompt, ...]``."""
    prompts, heads = values.shape[0], values.shape[1:]
    weights = np.where(np.isfinite(values), weights, 0.0).reshape(prompts, -1)
    totals = np.where(weights > 0, values.reshape(prompts, -1), 0.0) * weights
    draws = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1.0 / prompts), size=RESAMPLES)
    count = draws @ weights
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(count > 0, (draws @ totals) / count, np.nan)
    tail = (1.0 - level) / 2
    defined = (weights > 0).any(axis=0)
    bounds = np.full((2, means.shape[1]), np.nan)
    if defined.any():
        bounds[:, defined] = np.nanquantile(means[:, defined], [tail, 1.0 - tail], axis=0)
    return bounds.reshape(2, *heads)
