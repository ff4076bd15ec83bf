"""``baseline="untrained"``: the same plan on the model before training, and its answers put beside the trained ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from probe.analysis.choice import choose
from probe.analysis.plan import Plan
from probe.analysis.ready import ready
from probe.models.untrained import untrained
from probe.report.answer import Answer
from probe.report.baseline import UNTRAINED, comparison_line


def untrained_plan(plan: Plan, metrics: object, interventions: object) -> Plan:
    """The plan with a model of the same configuration and re-initialised weights; nothing of it is kept on disk."""
    loaded = untrained(plan.loaded, plan.options.seed)
    prompts = [item.prompt for item in plan.inputs.items if item.prompt is not None]
    tell = plan.options.progress
    options = replace(
        plan.options,
        out=None,
        keep="none",
        baseline=None,
        progress=None if tell is None else lambda done, total, what: tell(done, total, f"untrained: {what}"),
    )
    return replace(
        plan,
        loaded=loaded,
        choice=choose(metrics),
        interventions=ready(interventions, loaded, prompts),
        options=options,
    )


def beside(
    answers: Sequence[Answer], others: Sequence[Answer], reasons: Mapping[str, str], seed: int
) -> list[Answer]:
    """Each answer with the untrained one as ``extra["untrained"]`` (same axes), and a note that compares them.

    `reasons` tells, by spec, why an experiment could not run on the untrained model.
    """
    known = {(one.spec, one.tower): one for one in others}
    return [_beside(one, known.get((one.spec, one.tower)), reasons.get(one.spec), seed) for one in answers]


def _beside(answer: Answer, other: Answer | None, reason: str | None, seed: int) -> Answer:
    lines: list[str] = []
    if other is None:
        lines = [f"untrained baseline: no answer ({reason or 'the tower was not seen'})"]
    elif not bool(np.isfinite(other.head_map.values).any()):
        lines = [f"untrained baseline: {note}" for note in other.notes]
    found = answer.head_map.copy(data=np.full(answer.head_map.shape, np.nan))
    if other is not None:
        found = _aligned(other.head_map, found)
    told = replace(answer, extra={**answer.extra, UNTRAINED: found})
    line = f"untrained baseline (weights re-initialised, seed {seed}): {comparison_line(told)}"
    return replace(told, notes=(*answer.notes, line, *lines))


def _aligned(values: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """The values under the labels of `like`, NaN where a label is not there."""
    if not like.dims:
        return like.copy(data=np.asarray(values.values))
    at = {str(axis): like.coords[axis].values for axis in like.dims if axis in like.coords}
    return like.copy(data=values.reindex(at).transpose(*like.dims).values)
