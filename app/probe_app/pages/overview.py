"""The overview: what every head does, by any metric, and which heads come first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ALL, Input, Output, State, dcc, html

from probe.errors import ProbeError
from probe.plots import head_map
from probe.report import Report
from probe_app import figures
from probe_app.address import read, write
from probe_app.further import MARK, further, heads_by_kind
from probe_app.head_table import columns, records, text_table
from probe_app.pages.page import Page
from probe_app.said import facts, problem, warnings

SHOWN = 3  # maps where the address names none
JOINED = "|"  # between metrics in an address


class Overview(Page):
    """Maps of layers × heads, side by side, and a table of heads."""

    path: ClassVar[str] = "/"
    name: ClassVar[str] = "overview"
    title: ClassVar[str] = "Overview"
    what: ClassVar[str] = "all heads at a glance"

    def layout(self, fields: Mapping[str, str]) -> Any:
        """Choices above, maps and table below."""
        # Controls are born with their values: one that is given its value later says first that it has none.
        found = self._choices(fields)
        return dmc.Stack(
            [
                dmc.Group(
                    [
                        dmc.Select(
                            id="overview-report",
                            label="Report",
                            searchable=True,
                            w=340,
                            data=found.listed,
                            value=found.name or None,
                        ),
                        dmc.MultiSelect(
                            id="overview-metrics",
                            label="Metrics",
                            searchable=True,
                            flex=1,
                            miw=260,
                            maxValues=9,
                        ),
                    ],
                    align="flex-start",
                ),
                html.Div(id="overview-facts"),
                dcc.Loading(html.Div(id="overview-maps"), delay_show=300),
                html.Div(id="overview-table"),
                dmc.Group(
                    [
                        dmc.Title("Kinds of heads", order=2, size="h4"),
                        dmc.Button(
                            "Draw the taxonomy", id="overview-kinds", variant="default", size="xs", n_clicks=0
                        ),
                    ]
                ),
                dcc.Loading(html.Div(id="overview-taxonomy"), delay_show=300),
                html.Div(id="overview-further"),
            ]
        )

    def connect(self, app: dash.Dash) -> None:
        """Choices and address follow one another; a head that is clicked has its page opened."""
        figures.connect(app, "map")
        figures.connect(app, MARK)

        @app.callback(
            Output("overview-taxonomy", "children"),
            Input("overview-kinds", "n_clicks"),
            State("overview-report", "value"),
            prevent_initial_call=True,
        )
        def _kinds(_clicks: int, name: str) -> Any:
            try:
                return heads_by_kind(self.library.open(name))
            except ProbeError as error:
                return problem(error)

        @app.callback(
            Output("overview-address", "search"),
            Output("overview-report", "data"),
            Output("overview-report", "value"),
            Output("overview-metrics", "data"),
            Output("overview-metrics", "value"),
            Output("overview-facts", "children"),
            Output("overview-maps", "children"),
            Output("overview-table", "children"),
            Output("overview-further", "children"),
            Input("overview-address", "search"),
            Input("overview-report", "value"),
            Input("overview-metrics", "value"),
        )
        def _all(search: str | None, report: str | None, metrics: list[str] | None) -> tuple[Any, ...]:
            fields = read(search)
            # A control also speaks up when it is given its value; only what differs from the address is a choice.
            if dash.ctx.triggered_id == "overview-report" and report != fields.get("report"):
                fields = {"report": report or ""}
            elif dash.ctx.triggered_id == "overview-metrics" and metrics:
                fields["metrics"] = JOINED.join(metrics)
            return self._view(fields)

        self._opening(app)

    def _opening(self, app: dash.Dash) -> None:
        """A head that is clicked, on a map, in the table or among its kind, is opened; the table is copied."""

        @app.callback(
            Output("address", "href", allow_duplicate=True),
            Input({"mark": MARK, "name": "taxonomy"}, "clickData"),
            State("address", "search"),
            prevent_initial_call=True,
        )
        def _from_taxonomy(click: Any, search: str | None) -> Any:
            return _page_of(search, click["points"][0].get("customdata") if click else None)

        @app.callback(
            Output("address", "href", allow_duplicate=True),
            Input({"mark": "map", "name": ALL}, "clickData"),
            State("address", "search"),
            prevent_initial_call=True,
        )
        def _from_map(clicks: list[Any], search: str | None) -> Any:
            points = [click["points"][0].get("customdata") for click in clicks if click]
            return _page_of(search, points[0] if points else None)

        @app.callback(
            Output("address", "href", allow_duplicate=True),
            Input("heads", "cellClicked"),
            State("address", "search"),
            prevent_initial_call=True,
        )
        def _from_table(cell: Mapping[str, Any] | None, search: str | None) -> Any:
            return _page_of(search, cell.get("rowId") if cell else None)

        @app.callback(
            Output("copy-heads", "content"),
            Input("copy-heads", "n_clicks"),
            State("heads", "virtualRowData"),
            State("heads", "columnDefs"),
            prevent_initial_call=True,
        )
        def _copy(_clicks: int, rows: Any, defs: Any) -> str:
            return text_table(rows or [], defs or [])

    def _choices(self, fields: Mapping[str, str]) -> "_Choices":
        """What an address chooses: the report, and which of its metrics are drawn."""
        names = self.library.names()
        name = fields.get("report") or (names[0] if names else "")
        listed = names if name in names or not name else [name, *names]
        report: Report | None = None
        error: ProbeError | None = None
        if name:
            try:
                report = self.library.open(name)
            except ProbeError as problem_found:
                error = problem_found
        keys = [] if report is None else report.keys()
        asked = [key for key in fields.get("metrics", "").split(JOINED) if key in keys]
        return _Choices(listed, name, report, error, keys, asked)

    def _view(self, fields: Mapping[str, str]) -> tuple[Any, ...]:
        found = self._choices(fields)
        listed, name, report = found.listed, found.name, found.report
        if report is None:
            told = nothing_yet() if found.error is None else problem(found.error)
            search = write(fields) if name else dash.no_update
            return search, listed, name or None, [], [], told, None, None, None
        search = write({"report": name, "metrics": JOINED.join(found.asked)})
        told = [facts(report), *warnings(report)]
        maps = _maps(report, found.shown)
        return search, listed, name, found.keys, found.shown, told, maps, _table(report), _further(report)


@dataclass(frozen=True)
class _Choices:
    listed: list[str]
    name: str
    report: Report | None
    error: ProbeError | None
    keys: list[str]
    asked: list[str]

    @property
    def shown(self) -> list[str]:
        """The metrics that are drawn."""
        return self.asked or self.keys[:SHOWN]


def _page_of(search: str | None, head: object) -> Any:
    """The address of a head's page; key/value heads, experts and layers have none."""
    known = isinstance(head, str) and ".H" in head
    return "/head" + write({"report": read(search).get("report"), "head": head}) if known else dash.no_update


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


def _maps(report: Report, keys: Sequence[str]) -> object:
    figure_of = []
    for key in keys:
        answer = report.answer(key)
        figure = head_map(answer.head_map, title=key, unit=answer.unit, tower=answer.tower)
        figure_of.append(
            dmc.Paper(
                [
                    figures.graph(key, figure, f"Map of {key}", mark="map"),
                    dmc.Text(answer.summary, size="xs", c="dimmed"),
                    *(dmc.Text(note, size="xs", c="dimmed") for note in answer.notes),
                ],
                withBorder=True,
                p="xs",
            )
        )
    return dmc.SimpleGrid(figure_of, cols={"base": 1, "sm": 2, "lg": 3})


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
    return dmc.Stack(
        [
            dmc.Group(
                [
                    dmc.Title("Heads", order=2, size="h4"),
                    dmc.Text(
                        "Sort by a column's name, filter below it, click a row to open the head.", size="sm"
                    ),
                    html.Span(
                        ["Copy as text ", dcc.Clipboard(id="copy-heads", title="Copy the table as text")],
                        className="copy",
                    ),
                ]
            ),
            dag.AgGrid(
                id="heads",
                rowData=rows,
                columnDefs=columns(report),
                getRowId="params.data.head",
                defaultColDef={"sortable": True, "resizable": True, "floatingFilter": True, "minWidth": 110},
                dashGridOptions={"animateRows": False, "tooltipShowDelay": 300, "theme": "themeAlpine"},
                columnSize="responsiveSizeToFit",
                className="heads",
                style={"height": 420},
            ),
        ],
        gap="xs",
    )
