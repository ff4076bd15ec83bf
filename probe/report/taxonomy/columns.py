"""The numbers of every head from one or several reports, a column per metric, and which metrics say nothing of it."""

from collections.abc import Mapping, Sequence

import pandas as pd
import xarray as xr

from probe.report.answer import Answer
from probe.report.ranking import cells, head_axis
from probe.report.report import Report

INDEX = ("model", "layer", "head")
_NO_HEADS = {
    "layer": "one number per layer",
    "expert": "one number per expert",
    "model": "one number per model",
}


def head_columns(reports: Sequence[Report], tower: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """A row per head, a column per metric, and why each metric that is not there was left out.

    Reports of one model are joined: a metric that several of them hold is averaged, over what is defined. Of several
    models only metrics that all of them have are used.
    """
    out: dict[str, str] = {}
    frames: dict[str, pd.DataFrame] = {}
    for report in reports:
        name = report.provenance.model.name
        found = _one(report, tower, name, out)
        frames[name] = _joined(frames[name], found) if name in frames else found
    shared = set.intersection(*(set(frame.columns) for frame in frames.values())) if frames else set()
    for name, frame in frames.items():
        others = [column for column in frame.columns if column not in shared]
        out.update(dict.fromkeys(others, f"measured on {name} and not on every model"))
    whole = pd.concat([frame[[c for c in frame.columns if c in shared]] for frame in frames.values()])
    return whole, out


def _one(report: Report, tower: str, model: str, out: dict[str, str]) -> pd.DataFrame:
    answers = [one for one in report.answers if one.tower == tower]
    counts = _head_counts(answers)
    columns = {}
    for answer in answers:
        axis = head_axis(answer.head_map)
        values = _per_head(answer.head_map, counts) if axis in ("head", "kv_head") else None
        if values is None:
            out[answer.spec] = _NO_HEADS.get(axis, "its key/value heads do not divide the heads")
        else:
            columns[answer.spec] = values
    frame = pd.DataFrame(columns, dtype="float64")
    heads = list(frame.index) if columns else []
    frame.index = pd.MultiIndex.from_tuples([(model, *head) for head in heads], names=INDEX)
    return frame.sort_index()


def _head_counts(answers: Sequence[Answer]) -> dict[int, int]:
    """Heads of each layer, from the maps that have an axis of heads."""
    counts: dict[int, int] = {}
    for answer in answers:
        if head_axis(answer.head_map) == "head":
            for layer, head, _ in cells(answer.head_map):
                counts[layer] = max(counts.get(layer, 0), head + 1)
    return counts


def _per_head(head_map: xr.DataArray, counts: Mapping[int, int]) -> pd.Series | None:
    """Values by (layer, head); a key/value head's number goes to each query head that reads it."""
    values = {(layer, head): value for layer, head, value in cells(head_map)}
    if head_axis(head_map) == "kv_head":
        groups: dict[int, int] = {}
        for layer, head in values:
            groups[layer] = max(groups.get(layer, 0), head + 1)
        if any(layer not in counts or counts[layer] % n for layer, n in groups.items()):
            return None
        values = {
            (layer, head): values[layer, head // (counts[layer] // n)]
            for layer, n in groups.items()
            for head in range(counts[layer])
        }
    return pd.Series(values, dtype="float64")


def _joined(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Both reports of a model: their columns side by side, a column of both averaged over what is defined."""
    alike = [column for column in other.columns if column in one.columns]
    both = pd.concat([one, other[[c for c in other.columns if c not in alike]]], axis=1)
    for column in alike:
        both[column] = pd.concat([one[column], other[column]], axis=1).mean(axis=1)
    return both.sort_index()
