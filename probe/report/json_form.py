"""A report as one JSON object, schema 1: what ``--json`` prints.

Each entry of ``metrics`` is one head map with its ``tower``. The key is the spec as typed; where a metric
was measured in several towers, the decoder's map has that key and the others have ``KEY@TOWER``. Undefined
values are null, rows are cut to the heads that a layer has, and token maps are left out: they live in the
files of a saved report.
"""

import math
from collections.abc import Sequence
from typing import Any

import xarray as xr

from probe.report.answer import Answer
from probe.report.baseline import baseline_of, comparison_json
from probe.report.lookup import key_of
from probe.report.provenance import Provenance
from probe.report.ranking import axis_labels, grid, head_axis, head_counts, top_heads

SCHEMA = 1
TOP = 10


def report_json(answers: Sequence[Answer], provenance: Provenance) -> dict[str, Any]:
    """The JSON object of a whole report."""
    return {
        "schema": SCHEMA,
        "model": finite(provenance.to_dict()["model"]),
        "tokens": provenance.tokens,
        "mode": provenance.mode,
        "unseen_layers": list(provenance.unseen_layers),
        "metrics": {key_of(answer, answers): answer_json(answer) for answer in answers},
        "provenance": finite(provenance.to_dict()),
    }


def answer_json(answer: Answer) -> dict[str, Any]:
    """The JSON object of one answer: its head map and what is needed to read it."""
    compared = comparison_json(answer)
    other = baseline_of(answer)
    beside = {} if compared is None or other is None else {**finite(compared), **head_map_json(other)}
    return {
        "unit": answer.unit,
        "better": answer.better,
        "tower": answer.tower,
        **head_map_json(answer.head_map),
        "top": [[name, score] for name, score in top_heads(answer, TOP)],
        "notes": list(answer.notes),
        **({"baseline": beside} if beside else {}),
    }


def head_map_json(head_map: xr.DataArray) -> dict[str, Any]:
    """A head map as ``{"axes", "layers", "values"}``, one row (or number) per layer, undefined values null.

    One number of the whole model has no axes and no layers.

    >>> head_map_json(xr.DataArray([[0.5, float("nan")]], dims=("layer", "head")))
    {'axes': ['layer', 'head'], 'layers': [0], 'values': [[0.5, None]]}
    >>> head_map_json(xr.DataArray(0.5))
    {'axes': [], 'layers': [], 'values': 0.5}
    """
    if head_axis(head_map) == "model":
        return {"axes": [], "layers": [], "values": finite(float(head_map))}
    axis, layers = head_axis(head_map), axis_labels(head_map, "layer")
    rows = [row[:count].tolist() for row, count in zip(grid(head_map), head_counts(head_map), strict=True)]
    if axis == "layer":
        return {"axes": ["layer"], "layers": layers, "values": finite([value for (value,) in rows])}
    return {"axes": ["layer", axis], "layers": layers, "values": finite(rows)}


def finite(value: Any) -> Any:
    """Plain JSON values: numbers that JSON cannot write become null, tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
