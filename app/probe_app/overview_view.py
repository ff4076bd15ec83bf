"""What the overview shows for an address: the choices, the maps, the table of heads, and what else a report holds."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from probe.errors import ProbeError
from probe.plots import head_map
from probe.report import Report
from probe_app import figures
from probe_app.address import write
from probe_app.further import further
from probe_app.head_table import columns, records
from probe_app.library import Library
from probe_app.redraw import Redraw
from probe_app.said import facts, problem, warnings

SHOWN = 3  # maps where the address names none
MOST = 9  # maps side by side
JOINED = "|"  # between metrics in an address


def overview_view(library: Library, fields: Mapping[str, str], redraw: Redraw, grid: bool) -> dict[str, Any]:
    """All that the page shows, by the names of `probe_app.pages.overview`; `grid`: the table's script is there."""
    names = library.names()
    name = fields.get("report") or (names[0] if names else "")
    listed = names if name in names or not name else [name, *names]
    told = {"reports": redraw.part("reports", listed, lambda: listed), "report": name or None}
    try:
        report, stamp = (library.open(name), library.shelf(name).stamp) if name else (None, None)
    except ProbeError as error:
        return {**told, **_nothing(redraw, write(fields), problem(error)), "reports": listed}
    if report is None:
        return {**told, **_nothing(redraw, "", nothing_yet()), "reports": listed}
    keys = report.keys()
    asked = [key for key in dict.fromkeys(fields.get("metrics", "").split(JOINED)) if key]
    drawn = [key for key in asked if key in keys][:MOST] or keys[:SHOWN]
    left = [key for key in asked if key not in drawn]
    return {
        **told,
        "search": write({"report": name, "metrics": JOINED.join(asked)}),
        "keys": redraw.part("keys", stamp, lambda: keys),
        "metrics": drawn,
        "facts": redraw.part(
            "facts", (stamp, left), lambda: [facts(report), *warnings(report), *left_out(left)]
        ),
        "maps": _maps(report, stamp, drawn, redraw),
        "table": redraw.part("table", (stamp, grid), lambda: _table(report) if grid else None),
        "further": redraw.part("further", stamp, lambda: _further(report)),
    }


def _nothing(redraw: Redraw, search: str, why: object) -> dict[str, Any]:
    redraw.drawn.clear()
    empty: dict[str, Any] = {"keys": [], "metrics": [], "maps": [None] * MOST, "table": None, "further": None}
    return {**empty, "search": search, "facts": why}


def nothing_yet() -> object:
    """What is shown where there is no report: how to make one."""
    return dmc.Alert(
        [
            dmc.Text("A report is what probe analyze writes. Make the first one on the command line:"),
            dmc.Code("probe analyze", block=True),
            dmc.Text("Then load this page again."),
        ],
        title="No report yet",
        id="nothing",
    )


def left_out(metrics: Sequence[str]) -> list[object]:
    """What is said of metrics that the address names and no map shows: they are not in the report, or too many."""
    if not metrics:
        return []
    said = (
        f"{', '.join(metrics)}: not in this report, or more than the {MOST} maps that are shown side by side."
    )
    return [
        dmc.Alert(said, title="Metrics of this address that are not shown", color="orange", id="left-out")
    ]


def _maps(report: Report, stamp: object, keys: Sequence[str], redraw: Redraw) -> list[Any]:
    """What each place for a map holds: one that holds its map already is left alone, and not drawn anew."""
    padded = [*keys, *[None] * (MOST - len(keys))]
    return [
        redraw.part(f"map {place}", (stamp, key), partial(_map, report, key))
        for place, key in enumerate(padded)
    ]


def _map(report: Report, key: str | None) -> object:
    if key is None:
        return None
    answer = report.answer(key)
    figure = head_map(answer.head_map, title=key, unit=answer.unit, tower=answer.tower)
    return dmc.Paper(
        [
            figures.graph(key, figure, f"Map of {key}", mark="map"),
            dmc.Text(answer.summary, size="xs", c="dimmed"),
            *(dmc.Text(note, size="xs", c="dimmed") for note in answer.notes),
        ],
        withBorder=True,
        p="xs",
    )


def _further(report: Report) -> object:
    cards = further(report)
    if not cards:
        return None
    grid = dmc.SimpleGrid(cards, cols={"base": 1, "lg": 2})
    return dmc.Stack([dmc.Title("Further results", order=2, size="h4"), grid], gap="xs")


def _table(report: Report) -> object:
    rows = records(report)
    if not rows:
        return None
    how = "Sort by a column's name, filter below it, click a row, or press Enter in it, to open the head."
    copy = dcc.Clipboard(id="copy-heads", title="Copy the table as text")
    above = [
        dmc.Title("Heads", order=2, size="h4"),
        dmc.Text(how, size="sm"),
        html.Span(["Copy as text ", copy], className="copy"),
    ]
    grid = dag.AgGrid(
        id="heads",
        rowData=rows,
        columnDefs=columns(report),
        getRowId="params.data.head",
        defaultColDef={"sortable": True, "resizable": True, "floatingFilter": True, "minWidth": 110},
        dashGridOptions={"animateRows": False, "tooltipShowDelay": 300, "theme": "themeAlpine"},
        columnSize="responsiveSizeToFit",
        className="heads",
        style={"height": 420},
    )
    return dmc.Stack([dmc.Group(above), grid], gap="xs")
