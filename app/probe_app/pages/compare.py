"""Two reports beside each other: two models, two prompts, or a model as it is and edited."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
from dash import Input, Output, html

from probe.errors import ProbeError, ReportError
from probe.plots import difference_map, head_map, head_scatter
from probe.report.answer import Answer
from probe_app import figures
from probe_app.address import read, write
from probe_app.comparing import movers, statistics
from probe_app.pages.page import Page
from probe_app.said import facts, problem


class Compare(Page):
    """Difference maps, rank changes, a scatter of heads, and statistics of the pairs."""

    path: ClassVar[str] = "/compare"
    name: ClassVar[str] = "compare"
    title: ClassVar[str] = "Compare"
    what: ClassVar[str] = "two reports, head by head"

    def layout(self, fields: Mapping[str, str]) -> Any:
        """Two choices of reports and one of the metric."""
        return dmc.Stack(
            [
                dmc.Group(
                    [
                        dmc.Select(id="compare-one", label="First report", searchable=True, w=320),
                        dmc.Select(id="compare-other", label="Second report", searchable=True, w=320),
                        dmc.Select(id="compare-metric", label="Metric", searchable=True, w=240),
                    ],
                    align="flex-start",
                ),
                html.Div(id="compare-shown"),
            ]
        )

    def connect(self, app: dash.Dash) -> None:
        """Choices and address follow one another."""
        figures.connect(app, "compare")

        @app.callback(
            Output("compare-address", "search"),
            Output("compare-one", "data"),
            Output("compare-one", "value"),
            Output("compare-other", "data"),
            Output("compare-other", "value"),
            Output("compare-metric", "data"),
            Output("compare-metric", "value"),
            Output("compare-shown", "children"),
            Input("compare-address", "search"),
            Input("compare-one", "value"),
            Input("compare-other", "value"),
            Input("compare-metric", "value"),
        )
        def _all(
            search: str | None, one: str | None, other: str | None, metric: str | None
        ) -> tuple[Any, ...]:
            fields = read(search)
            touched = {
                "compare-one": ("a", one),
                "compare-other": ("b", other),
                "compare-metric": ("metric", metric),
            }
            which = dash.ctx.triggered_id
            if isinstance(which, str) and which in touched:
                field, value = touched[which]
                fields[field] = value or ""
            return self._view(fields)

    def _view(self, fields: Mapping[str, str]) -> tuple[Any, ...]:
        names = self.library.names()
        if len(names) < 2 and not (fields.get("a") and fields.get("b")):
            said = dmc.Alert(
                "Two reports are needed. Make another one with probe analyze, of another model, prompt or edit.",
                title="Nothing to compare yet",
                id="nothing",
            )
            return dash.no_update, names, names[0] if names else None, names, None, [], None, said
        one, other = fields.get("a") or names[1], fields.get("b") or names[0]
        listed = list(dict.fromkeys([*names, one, other]))
        try:
            reports = self.library.open(one), self.library.open(other)
            shared = [key for key in reports[0] if key in reports[1]]
            if not shared:
                raise ReportError(
                    f"{one!r} and {other!r} were to be compared; they share no metric: analyze both with the same one"
                )
            metric = fields.get("metric") if fields.get("metric") in shared else shared[0]
            answers = reports[0].answer(str(metric)), reports[1].answer(str(metric))
            shown = [
                dmc.Group([dmc.Badge("1", variant="light"), facts(reports[0])], gap="xs"),
                dmc.Group([dmc.Badge("2", variant="light"), facts(reports[1])], gap="xs"),
                *_pictures(answers, (one, other)),
            ]
        except ProbeError as error:
            return write(fields), listed, one, listed, other, [], None, problem(error)
        search = write({"a": one, "b": other, "metric": metric})
        return search, listed, one, listed, other, shared, metric, shown


def _pictures(answers: tuple[Answer, Answer], names: tuple[str, str]) -> Sequence[object]:
    one, other = answers
    maps = one.head_map, other.head_map
    cells: list[object] = [
        _card("first", head_map(maps[0], title="1", unit=one.unit, tower=one.tower), "The first report"),
        _card("second", head_map(maps[1], title="2", unit=one.unit, tower=one.tower), "The second report"),
    ]
    try:
        moved = difference_map(*maps, title="2 − 1", unit=one.unit, tower=one.tower)
    except ReportError as error:
        return [dmc.SimpleGrid(cells, cols={"base": 1, "lg": 3}), problem(error)]
    cells.append(_card("difference", moved, "The second minus the first"))
    cells.append(_card("scatter", head_scatter(*maps, names=names, title="Head by head"), "A point per head"))
    return [
        dmc.SimpleGrid(
            [*cells, statistics(one, other), movers(one, other)], cols={"base": 1, "sm": 2, "lg": 3}
        )
    ]


def _card(name: str, figure: Any, label: str) -> object:
    return dmc.Paper(figures.graph(name, figure, label, mark="compare"), withBorder=True, p="xs")
