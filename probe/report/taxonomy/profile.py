"""The profile of every head: its numbers over all metrics, each metric brought to mean 0 and deviation 1 over heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
import xarray as xr

from probe.errors import ReportError, UnknownNameError, UsageError
from probe.report.ranking import head_name
from probe.report.report import Report
from probe.report.taxonomy.columns import INDEX, head_columns

FEWEST = 0.5  # share of heads that a metric must have a value for


@dataclass(frozen=True)
class Profile:
    """Standardised numbers of heads.

    Attributes:
        values: Axes (head, metric), no NaN; coordinates ``model``, ``layer`` and ``number`` go along ``head``, whose
            labels are names such as ``L18.H6`` (``model/L18.H6`` where there are several models).
        raw: The same in the metrics' own units, NaN where undefined.
        left_out: Why each metric that is not used was left out.
        filled: How many undefined values of a metric stand at its mean (0 in `values`).
        notes: Lines the reader must see.
    """

    values: xr.DataArray
    raw: xr.DataArray
    left_out: Mapping[str, str]
    filled: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def heads(self) -> list[str]:
        """Names of the heads, in order."""
        return [str(name) for name in self.values.coords["head"].values]

    @property
    def metrics(self) -> list[str]:
        """The metrics that are used."""
        return [str(name) for name in self.values.coords["metric"].values]


def head_profile(
    reports: Report | Sequence[Report],
    *,
    metrics: Sequence[str] | None = None,
    tower: str = "decoder",
    scale: str = "z",
) -> Profile:
    """The standardised profile of every head over the metrics of one or several reports.

    ``z``: (value − mean) / standard deviation over the heads. ``rank``: the normal quantile of the head's rank, which
    no outlier can dominate. Metrics that are functions of each other count once each: name some with `metrics`.

    Used is every metric with a number per head (of a key/value head, its query heads share it) that differs between
    heads and is defined for at least half of them. Heads with no defined value are left out; any other undefined
    value stands at the metric's mean. All of this is told in `left_out`, `filled` and `notes`.

    Args:
        reports: Reports of one model (joined; a metric that several hold is averaged) or of several (stacked; only
            metrics that all have).
        metrics: Specs to use; None: all.
        tower: Whose heads.
        scale: How numbers are standardised.

    Raises:
        ReportError: no metric can be used, or fewer than three heads are left.
        UnknownNameError: a metric that the reports do not hold.
    """
    if scale not in ("z", "rank"):
        raise UsageError(f"scale={scale!r} was asked; it is z or rank")
    several = [reports] if isinstance(reports, Report) else list(reports)
    if not several:
        raise ReportError("a taxonomy was asked of no report; give at least one")
    frame, left_out = head_columns(several, tower)
    if metrics is not None:
        frame, left_out = _asked(frame, left_out, metrics)
    frame, left_out = _usable(frame, left_out)
    lost = frame.index[frame.isna().all(axis=1)]
    frame = frame.drop(index=lost)
    if frame.shape[1] == 0 or len(frame) < 3:
        raise ReportError(
            f"a taxonomy of the {tower} heads was asked; {frame.shape[1]} metrics say something of {len(frame)} heads: "
            f"it takes one metric and three heads. Left out: {_told(left_out) or 'nothing'}"
        )
    filled = {str(name): int(count) for name, count in frame.isna().sum().items() if count}
    standard = _ranks(frame) if scale == "rank" else (frame - frame.mean()) / frame.std(ddof=0)
    labels = _labels(frame, tower)
    notes = [
        f"{frame.shape[1]} metrics of {len(frame)} heads, each metric "
        + ("as normal quantiles of ranks" if scale == "rank" else "to mean 0 and deviation 1 over heads")
    ]
    notes += [f"{name} was left out: {reason}" for name, reason in left_out.items()]
    notes += [f"{name}: {n} undefined values stand at its mean" for name, n in filled.items()]
    if len(lost):
        notes.append(f"{len(lost)} heads have no defined value and were left out")
    return Profile(
        _array(standard.fillna(0.0), labels), _array(frame, labels), left_out, filled, tuple(notes)
    )


def _asked(
    frame: pd.DataFrame, left_out: Mapping[str, str], metrics: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The same of the named metrics alone."""
    for name in metrics:
        if name not in frame.columns and name not in left_out:
            raise UnknownNameError.of("metric of these reports", name, [*map(str, frame.columns), *left_out])
    kept = frame[[name for name in dict.fromkeys(metrics) if name in frame.columns]]
    return kept, {name: reason for name, reason in left_out.items() if name in metrics}


def _usable(frame: pd.DataFrame, left_out: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Without metrics that say too little: undefined for most heads, not finite, or the same for all."""
    reasons = dict(left_out)
    frame = frame.replace([np.inf, -np.inf], np.nan)
    for name in list(frame.columns):
        values = frame[name].dropna()
        if len(values) < FEWEST * len(frame) or not len(values):
            reasons[str(name)] = f"defined for {len(values)} of {len(frame)} heads"
        elif float(np.ptp(values.to_numpy())) <= 1e-12 * max(1.0, float(values.abs().max())):
            reasons[str(name)] = "the same for every head"
    return frame[[name for name in frame.columns if str(name) not in reasons]], reasons


def _ranks(frame: pd.DataFrame) -> pd.DataFrame:
    normal = NormalDist()
    shares: pd.DataFrame = (frame.rank() - 0.5) / frame.notna().sum()
    return shares.map(normal.inv_cdf, na_action="ignore")


def _labels(frame: pd.DataFrame, tower: str) -> dict[str, object]:
    models, layers, heads = (frame.index.get_level_values(level) for level in INDEX)
    several = len(set(models)) > 1
    names = [
        (f"{model}/" if several else "") + head_name(tower, int(layer), int(head))
        for model, layer, head in zip(models, layers, heads, strict=True)
    ]
    return {
        "head": names,
        "model": ("head", list(models)),
        "layer": ("head", layers.to_numpy(dtype=np.int64)),
        "number": ("head", heads.to_numpy(dtype=np.int64)),
    }


def _array(frame: pd.DataFrame, labels: Mapping[str, object]) -> xr.DataArray:
    coords = {**labels, "metric": [str(name) for name in frame.columns]}
    return xr.DataArray(frame.to_numpy(dtype=np.float64), dims=("head", "metric"), coords=coords)


def _told(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{name} ({reason})" for name, reason in left_out.items())
