"""Which head is meant, and how it stands among the heads of its model."""

import math

import dash_mantine_components as dmc
from dash import dcc

from probe.errors import ReportError, UsageError
from probe.report import Report
from probe.report.answer import Answer
from probe.report.ranking import cells, head_axis, head_name
from probe.terms import HeadId
from probe_app.address import write
from probe_app.said import shown


def head_names(report: Report) -> list[str]:
    """Every query head of a report by name, layer by layer."""
    names: dict[str, None] = {}
    seen: set[tuple[object, ...]] = set()
    for answer in report.answers:
        data = answer.head_map
        if head_axis(data) != "head":
            continue
        # Most metrics are of the same heads.
        counts = data["n_heads"].values.tobytes() if "n_heads" in data.coords else b""
        these = (answer.tower, data.shape, data["layer"].values.tobytes(), counts)
        if these not in seen:
            seen.add(these)
            names.update({head_name(answer.tower, layer, head): None for layer, head, _ in cells(data)})
    return list(names)


def parse_head(asked: str | None, report: Report) -> HeadId:
    """The head that an address names; the first metric's top head where it names none.

    Raises:
        ReportError: no such head in the report, or no head at all.
    """
    names = head_names(report)
    if not names:
        raise ReportError("a head was asked; this report has no metric of query heads: choose another report")
    if not asked:
        top = report.top(report.keys()[0], 1)
        first = (
            head_name(report.answers[0].tower, int(top["layer"][0]), int(top["head"][0])) if len(top) else ""
        )
        return HeadId.parse(first if first in names else names[0])
    try:
        head = HeadId.parse(asked)
    except UsageError as error:
        raise ReportError(str(error)) from error
    if str(head) not in names:
        raise ReportError(f"{head} was asked; the report has {names[0]} to {names[-1]}: choose one of them")
    return head


def standing(report: Report, head: HeadId, name: str) -> object:
    """A table: the head's value and rank for every metric; `name` is the report's, for the way back to all heads."""
    rows = []
    for key, answer in zip(report.keys(), report.answers, strict=True):
        found = _rank(answer, head)
        if found is None:
            continue
        value, rank, count = found
        place = f"{rank} of {count}" if rank else "–"
        rows.append([key, f"{shown(value)} {answer.unit}" if rank else "undefined", place])
    if not rows:
        return dmc.Text("No metric of the report speaks of this head.", c="dimmed")
    return dmc.Stack(
        [
            dmc.Table(
                data={"head": ["metric", "value", "rank"], "body": rows},
                striped=True,
                withTableBorder=True,
                className="standing",
            ),
            dcc.Link("All heads", href="/" + write({"report": name})),
        ],
        gap="xs",
    )


def _rank(answer: Answer, head: HeadId) -> tuple[float, int, int] | None:
    """Value, rank by the metric's better end (0: undefined) and number of heads with a value."""
    if answer.tower != head.tower or head_axis(answer.head_map) != "head":
        return None
    values = {(layer, number): value for layer, number, value in cells(answer.head_map)}
    mine = values.get((head.layer, head.head))
    if mine is None:
        return None
    finite = [value for value in values.values() if math.isfinite(value)]
    if not math.isfinite(mine):
        return math.nan, 0, len(finite)
    ahead = sum(value > mine if answer.better == "high" else value < mine for value in finite)
    return mine, ahead + 1, len(finite)
