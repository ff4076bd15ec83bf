"""Two reports beside each other: two models, two prompts, or a model as it is and edited."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
from dash import Input, Output, State, dcc

from probe.errors import ProbeError, ReportError
from probe.plots import difference_map, head_map, head_scatter
from probe.report import Report
from probe.report.answer import Answer
from probe_app import figures
from probe_app.address import read, write
from probe_app.comparing import movers, statistics
from probe_app.pages.page import Page
from probe_app.redraw import Redraw
from probe_app.said import facts, problem

_OWN = "compare-address"  # the page's view of the address
_CHOICES = {"one": "a", "other": "b", "metric": "metric"}  # controls, and their fields of the address


class Compare(Page):
    """Difference maps, rank changes, a scatter of heads, and statistics of the pairs."""

    path: ClassVar[str] = "/compare"
    name: ClassVar[str] = "compare"
    title: ClassVar[str] = "Compare"
    what: ClassVar[str] = "two reports, head by head"

    def layout(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """Two choices of reports and one of the metric; below, what came of them."""
        redraw = Redraw()
        told = self._view(fields, redraw)
        redraw.address(told["search"])
        choices = [
            dmc.Select(
                id=f"compare-{name}", label=label, searchable=True, w=width,
                data=told[f"{name}s"], value=told[name],
            )
            for name, label, width in (
                ("one", "First report", 320), ("other", "Second report", 320), ("metric", "Metric", 240),
            )
        ]  # fmt: skip
        content = dmc.Stack(
            [
                dmc.Group(choices, align="flex-start"),
                dmc.Stack(told["found"], id="compare-found", gap="xs"),
                dcc.Store(id="compare-shown", data=redraw.drawn),
            ]
        )
        return content, told["search"]

    def connect(self, app: dash.Dash) -> None:
        """Choices and address follow one another."""
        figures.connect(app, "compare")

        @app.callback(
            output={
                "search": Output(_OWN, "search"),
                **{f"{name}s": Output(f"compare-{name}", "data") for name in _CHOICES},
                **{name: Output(f"compare-{name}", "value") for name in _CHOICES},
                "found": Output("compare-found", "children"),
                "shown": Output("compare-shown", "data"),
            },
            inputs=[
                Input(_OWN, "search"),
                *(Input(f"compare-{name}", "value") for name in _CHOICES),
                State(_OWN, "pathname"),
                State("compare-shown", "data"),
            ],
            prevent_initial_call=True,
        )
        def _all(search: str | None, *touched: Any) -> dict[str, Any]:
            *values, path, shown = touched
            self.stays(path)
            redraw, which = Redraw(shown), dash.ctx.triggered_id
            fields = read(search)
            for (name, field), value in zip(_CHOICES.items(), values, strict=True):
                if which == f"compare-{name}":
                    fields[field] = value or ""
            told = self._view(fields, redraw)
            told["search"] = redraw.address(told["search"], which, _OWN)
            return {**told, "shown": redraw.drawn}

    def _view(self, fields: Mapping[str, str], redraw: Redraw) -> dict[str, Any]:
        names = self.library.names()
        if len(names) < 2 and not (fields.get("a") and fields.get("b")):
            said = dmc.Alert(
                "Two reports are needed. Make another one with probe analyze, of another model, prompt or edit.",
                title="Nothing to compare yet",
                id="nothing",
            )
            return _told("", names, (names[0] if names else None, None), [], None, said)
        one, other = fields.get("a") or names[1], fields.get("b") or names[0]
        listed = list(dict.fromkeys([*names, one, other]))
        try:
            reports = self.library.open(one), self.library.open(other)
            shared = [key for key in reports[0] if key in reports[1]]
            if not shared:
                raise ReportError(
                    f"{one!r} and {other!r} were to be compared; they share no metric: analyze both with the same one"
                )
            metric = str(fields["metric"] if fields.get("metric") in shared else shared[0])
            stamps = self.library.shelf(one).stamp, self.library.shelf(other).stamp
            found = redraw.part("found", (stamps, metric), lambda: _found(reports, metric, (one, other)))
        except ProbeError as error:
            redraw.drawn.clear()
            return _told(write(fields), listed, (one, other), [], None, problem(error))
        return _told(
            write({"a": one, "b": other, "metric": metric}), listed, (one, other), shared, metric, found
        )


def _told(
    search: str, listed: list[str], names: tuple[str | None, str | None], shared: list[str], metric: str | None,
    found: Any,
) -> dict[str, Any]:  # fmt: skip
    """What the page shows, by the names of its outputs."""
    return {
        "search": search, "ones": listed, "others": listed, "metrics": shared, "one": names[0], "other": names[1],
        "metric": metric, "found": found,
    }  # fmt: skip


def _found(reports: tuple[Report, Report], metric: str, names: tuple[str, str]) -> list[object]:
    answers = reports[0].answer(metric), reports[1].answer(metric)
    return [
        dmc.Group([dmc.Badge("1", variant="light"), facts(reports[0])], gap="xs"),
        dmc.Group([dmc.Badge("2", variant="light"), facts(reports[1])], gap="xs"),
        *_pictures(answers, names),
    ]


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
