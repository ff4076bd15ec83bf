"""The overview: what every head does, by any metric, and which heads come first."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Input, Output, State, dcc, html

from probe.errors import ProbeError
from probe_app import figures
from probe_app.further import MARK, heads_by_kind
from probe_app.head_table import text_table
from probe_app.overview_view import JOINED, MOST, overview_view
from probe_app.pages.page import Page
from probe_app.redraw import Redraw
from probe_app.said import problem

_OWN = "overview-address"  # the page's view of the address
_OUTPUTS = {
    "search": Output(_OWN, "search"),
    "reports": Output("overview-report", "data"),
    "report": Output("overview-report", "value"),
    "keys": Output("overview-metrics", "data"),
    "metrics": Output("overview-metrics", "value"),
    "facts": Output("overview-facts", "children"),
    "maps": [Output(f"overview-map-{place}", "children") for place in range(MOST)],
    "table": Output("overview-table", "children"),
    "further": Output("overview-further", "children"),
    "shown": Output("overview-shown", "data"),
}


class Overview(Page):
    """Maps of layers × heads, side by side, and a table of heads."""

    path: ClassVar[str] = "/"
    name: ClassVar[str] = "overview"
    title: ClassVar[str] = "Overview"
    what: ClassVar[str] = "all heads at a glance"

    def layout(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """Choices above, maps and table below."""
        redraw = Redraw()
        told = overview_view(self.library, fields, redraw, grid=False)
        redraw.address(told["search"])
        report = dmc.Select(
            id="overview-report", label="Report", searchable=True, w=340,
            data=told["reports"], value=told["report"],
        )  # fmt: skip
        metrics = dmc.MultiSelect(
            id="overview-metrics", label="Metrics", searchable=True, flex=1, miw=260, maxValues=MOST,
            data=told["keys"], value=told["metrics"],
        )  # fmt: skip
        draw = dmc.Button("Draw the taxonomy", id="overview-kinds", variant="default", size="xs", n_clicks=0)
        content = dmc.Stack(
            [
                dmc.Group([report, metrics], align="flex-start"),
                html.Div(told["facts"], id="overview-facts"),
                dcc.Loading(_places(told["maps"]), delay_show=300),
                html.Div(told["table"], id="overview-table"),
                dmc.Group([dmc.Title("Kinds of heads", order=2, size="h4"), draw]),
                dcc.Loading(html.Div(id="overview-taxonomy"), delay_show=300),
                html.Div(told["further"], id="overview-further"),
                dcc.Store(id="overview-grid"),
                dcc.Store(id="overview-shown", data=redraw.drawn),
            ]
        )
        return content, told["search"]

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
            output=_OUTPUTS,
            inputs=[
                Input(_OWN, "search"),
                Input("overview-report", "value"),
                Input("overview-metrics", "value"),
                Input("overview-grid", "data"),
                State(_OWN, "pathname"),
                State("overview-shown", "data"),
            ],
            prevent_initial_call=True,
        )
        def _all(search: str | None, *touched: Any) -> dict[str, Any]:
            report, metrics, grid, path, shown = touched
            self.stays(path)
            redraw, which = Redraw(shown), dash.ctx.triggered_id
            fields = redraw.fields(search)
            # A control also speaks up when it is given its value; only what differs from the address is a choice.
            if which == "overview-report" and report != fields.get("report"):
                fields = {"report": report or ""}
            elif which == "overview-metrics" and metrics:
                fields["metrics"] = JOINED.join(metrics)
            told = overview_view(self.library, fields, redraw, bool(grid))
            told["search"] = redraw.address(told["search"], which, _OWN)
            return {**told, "shown": redraw.drawn}

        app.clientside_callback(
            ClientsideFunction("probe", "grid"), Output("overview-grid", "data"), Input("overview-grid", "id")
        )
        self._opening(app)

    def _opening(self, app: dash.Dash) -> None:
        """A head that is clicked, on a map, in the table or among its kind, is opened; the table is copied."""
        to_page = Output("address", "href", allow_duplicate=True)
        from_map = ClientsideFunction("probe", "openFromMap")
        for mark, name in ((MARK, "taxonomy"), ("map", ALL)):
            app.clientside_callback(
                from_map,
                to_page,
                [Input({"mark": mark, "name": name}, "clickData")],
                prevent_initial_call=True,
            )

        @app.callback(
            Output("copy-heads", "content"),
            Input("copy-heads", "n_clicks"),
            State("heads", "virtualRowData"),
            State("heads", "columnDefs"),
            prevent_initial_call=True,
        )
        def _copy(_clicks: int, rows: Any, defs: Any) -> str:
            return text_table(rows or [], defs or [])


def _places(maps: Sequence[Any]) -> object:
    """A place of its own for every map, so that one more leaves the others as they are."""
    places = [html.Div(one, id=f"overview-map-{place}", className="place") for place, one in enumerate(maps)]
    return dmc.SimpleGrid(places, id="overview-maps", cols={"base": 1, "sm": 2, "lg": 3})
