"""Answers that are one number of the whole model: pooled over prompts, with an interval over them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from probe.experiments.base import told
from probe.metrics.base import MetricInfo
from probe.models import LoadedModel
from probe.report.answer import Answer
from probe.report.intervals import weighed_bounds

LEVEL = 0.95

PerPrompt = Float[np.ndarray, "prompt *rest"]


def model_answer(
    spec: str,
    info: MetricInfo,
    by_prompt: xr.DataArray,
    extra: Mapping[str, xr.DataArray],
    notes: Sequence[str],
    seed: int = 0,
) -> Answer:
    """The answer whose number is the mean over prompts of `by_prompt`, weighed by its coordinate ``weight``.

    `extra` gets ``interval``, axes (bound): percentile bootstrap over prompts, NaN with fewer than two.
    """
    values = np.asarray(by_prompt.values, np.float64)
    weights = np.asarray(by_prompt.coords["weight"].values, np.float64)
    known = {"interval": xr.DataArray(bounds(values, weights, seed), {"bound": ["low", "high"]}, ("bound",))}
    few = [] if len(values) > 1 else ["one prompt: no interval over prompts"]
    return Answer(
        **told(spec, info), head_map=xr.DataArray(pooled(values, weights)),
        by_prompt=by_prompt, extra={**known, **extra}, notes=(*notes, *few),
    )  # fmt: skip


def no_model_answer(spec: str, info: MetricInfo, reason: str) -> Answer:
    """An undefined number, and why."""
    return Answer(
        **told(spec, info),
        head_map=xr.DataArray(np.nan),
        notes=(f"not applicable: {reason}",),
    )


def by_prompt(names: Sequence[str], values: PerPrompt, weights: PerPrompt) -> xr.DataArray:
    """One value per prompt with what it weighs; prompts that share a name are numbered."""
    labels = [name if names.count(name) == 1 else f"{name}:{n}" for n, name in enumerate(names)]
    coords: dict[str, Any] = {"prompt": labels, "weight": ("prompt", np.asarray(weights, np.float64))}
    return xr.DataArray(np.asarray(values, np.float64), coords, ("prompt",))


def pooled(values: PerPrompt, weights: PerPrompt) -> np.ndarray:
    """Weighed mean over prompts, each entry over the prompts where it is defined; NaN where none is."""
    weights = np.where(np.isfinite(values), weights, 0.0)
    total = np.where(weights > 0, np.nan_to_num(values) * weights, 0.0).sum(0)
    weight = weights.sum(0)
    return np.asarray(np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0))


def bounds(values: PerPrompt, weights: PerPrompt, seed: int) -> np.ndarray:
    """Bootstrap interval over prompts of `pooled`, axes (bound, …); NaN with fewer than two prompts."""
    if len(values) < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    return weighed_bounds(values, np.broadcast_to(weights, values.shape), LEVEL, seed)


def cannot_predict(loaded: LoadedModel) -> str | None:
    """Why a model has no next-token losses; None where it has."""
    model: Any = loaded.model
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return "it needs a decoder that predicts the next token of a text"
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return "it needs a language-modelling head"
    return None
