"""The table of heads: a row per head, a column per metric."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from probe.report import Report
from probe.report.ranking import cells, head_axis, head_name

_WIDEST = 240  # pixels of a column: names stand in full, unless parameters make them long


def records(report: Report) -> list[dict[str, Any]]:
    """A row per query head: its name, its layer, and its value for every metric of query heads (None: undefined)."""
    rows: dict[str, dict[str, Any]] = {}
    for key, answer in _of_heads(report):
        for layer, head, value in cells(answer.head_map):
            name = head_name(answer.tower, layer, head)
            row = rows.setdefault(name, {"head": name, "layer": layer})
            row[_field(key)] = value if math.isfinite(value) else None
    return list(rows.values())


def columns(report: Report) -> list[dict[str, Any]]:
    """What the grid is told of its columns."""
    number = {"filter": "agNumberColumnFilter", "type": "rightAligned"}
    named: list[dict[str, Any]] = [
        {
            "field": "head",
            "headerName": "head",
            "filter": "agTextColumnFilter",
            "pinned": "left",
            "width": 110,
        },
        {"field": "layer", "headerName": "layer", **number, "width": 90},
    ]
    return named + [
        {
            "field": _field(key),
            "headerName": key,
            "headerTooltip": f"{key}: {answer.summary} ({answer.unit})",
            "minWidth": min(_WIDEST, max(110, 50 + 8 * len(key))),
            "valueFormatter": {"function": "params.value == null ? '–' : d3.format('.4~g')(params.value)"},
            "sortingOrder": ["desc", "asc", None] if answer.better == "high" else ["asc", "desc", None],
            **number,
        }
        for key, answer in _of_heads(report)
    ]


def text_table(rows: Sequence[Mapping[str, Any]], defs: Sequence[Mapping[str, Any]]) -> str:
    r"""Rows as text with tabs between the cells, in the order in which they are shown.

    >>> text_table([{"head": "L0.H1", "m": 0.5}], [{"field": "head"}, {"field": "m", "headerName": "entropy"}])
    'head\\tentropy\\nL0.H1\\t0.5'
    """
    lines = ["\t".join(str(one.get("headerName", one["field"])) for one in defs)]
    for row in rows:
        values = (row.get(one["field"]) for one in defs)
        lines.append("\t".join("" if value is None else str(value) for value in values))
    return "\n".join(lines)


def _of_heads(report: Report) -> list[tuple[str, Any]]:
    both = zip(report.keys(), report.answers, strict=True)
    return [(key, answer) for key, answer in both if head_axis(answer.head_map) == "head"]


def _field(key: str) -> str:
    # The grid reads a dot in a field's name as a path.
    return "m:" + key.replace(".", "_")
