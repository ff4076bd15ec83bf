"""Interventions: choose heads and an edit, and see the text, its probabilities and the attention before and after."""

from collections.abc import Mapping
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
from dash import ALL, Input, Output, State, dcc, html

from probe.errors import ProbeError, UsageError
from probe.plots import head_map
from probe.report.ranking import top_heads
from probe.terms import HeadId, Spec
from probe_app import figures
from probe_app.address import read, write
from probe_app.edit_view import edit_shown
from probe_app.head_choice import head_names
from probe_app.job_view import job_box
from probe_app.pages.page import Page
from probe_app.pages.run import whole
from probe_app.presets import HOW, PRESETS

_TEXT = (
    "The key to the mill lies under the third stone. It was a warm day. The key to the mill lies under the"
)


class Intervene(Page):
    """A form for an edit of heads, and what it did."""

    path: ClassVar[str] = "/intervene"
    name: ClassVar[str] = "intervene"
    title: ClassVar[str] = "Intervene"
    what: ClassVar[str] = "change heads, see what follows"

    def layout(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """Presets, heads, intervention, text; below, what came of it."""
        content = dmc.Stack(
            [
                dmc.Grid(
                    [
                        dmc.GridCol(
                            [dmc.Title("The edit", order=2, size="h4"), self._form()],
                            span={"base": 12, "md": 5},
                        ),
                        dmc.GridCol(
                            [
                                dmc.Title("What it did", order=2, size="h4"),
                                html.Div(id="edit-job"),
                                html.Div(id="edit-shown"),
                            ],
                            span={"base": 12, "md": 7},
                        ),
                    ]
                ),
                dcc.Interval(id="edit-clock", interval=1000),
                dcc.Store(id="edit-done"),
            ]
        )
        return content, write(fields)

    def _form(self) -> object:
        """What is asked of an edit."""
        presets = [{"value": name, "label": one.title} for name, one in PRESETS.items()]
        return dmc.Stack(
            [
                dmc.Select(id="edit-preset", label="Start from", data=presets, clearable=True,
                           description="Published interventions, with their heads still to choose."),
                html.Div(id="edit-about"),
                dmc.Autocomplete(id="edit-model", label="Model", data=self.models.names, value=self.models.names[0]),
                dmc.Group(
                    [
                        dmc.Select(id="edit-report", label="Heads: report", searchable=True, flex=2, miw=150),
                        dmc.Select(id="edit-metric", label="metric", searchable=True, flex=1, miw=120),
                        dmc.NumberInput(id="edit-top", label="top", value=10, min=1, max=500, w=80),
                        dmc.Button("Take them", id="edit-take", variant="default", n_clicks=0),
                    ],
                    align="flex-end",
                ),
                dmc.TagsInput(id="edit-heads", label="Heads", placeholder="L18.H6", value=[], clearable=True,
                              description="Type them, take the top ones of a metric, or click them on the map."),
                html.Details([html.Summary("Choose on the map"), html.Div(id="edit-map")]),
                dmc.Autocomplete(id="edit-how", label="Intervention", data=list(HOW), value="zero",
                                 description="NAME or NAME:k=v,k=v as on the command line; heads are added."),
                dmc.Textarea(id="edit-text", label="Text to continue", value=_TEXT, autosize=True, minRows=3),
                dmc.TextInput(id="edit-span", label="Span (words of the text)",
                              placeholder="optional: what keys=span or span=span means"),
                dmc.Group(
                    [
                        dmc.NumberInput(id="edit-new", label="New tokens", value=20, min=1, max=200, w=120),
                        dmc.NumberInput(id="edit-seed", label="Seed of the control", value=0, min=0, w=150),
                    ]
                ),
                dmc.Button("Edit and compare", id="edit-start", n_clicks=0),
                html.Div(id="edit-said"),
            ]
        )  # fmt: skip

    def connect(self, app: dash.Dash) -> None:
        """Fill the form, start, follow, show."""
        figures.connect(app, "edit")
        figures.connect(app, "pick")
        self._choosing(app)
        self._taking(app)

        @app.callback(
            Output("intervene-address", "search"),
            Output("edit-said", "children"),
            Input("edit-start", "n_clicks"),
            State("edit-model", "value"),
            State("edit-heads", "value"),
            State("edit-how", "value"),
            State("edit-text", "value"),
            State("edit-span", "value"),
            State("edit-new", "value"),
            State("edit-seed", "value"),
            prevent_initial_call=True,
        )
        def _start(_clicks: int, *asked: Any) -> tuple[Any, Any]:
            try:
                model, *rest = asked
                name = self.jobs.start(request(self.models.checked(model), *rest))
                return write({"run": name}), None
            except UsageError as error:
                return dash.no_update, dmc.Alert(str(error), color="red", id="edit-refused")

        self._following(app)

    def _following(self, app: dash.Dash) -> None:
        """How far the edit of the address is, and what it gave."""

        @app.callback(
            Output("edit-job", "children"),
            Output("edit-done", "data"),
            Output("edit-clock", "disabled"),
            Input("edit-clock", "n_intervals"),
            Input("intervene-address", "search"),
            Input({"cancel": ALL}, "n_clicks"),
        )
        def _follow(_ticks: Any, search: str | None, clicks: list[int | None]) -> tuple[Any, Any, bool]:
            name = read(search).get("run")
            if not name:
                return dmc.Text("Choose heads and an intervention, then start.", c="dimmed"), None, True
            try:
                if isinstance(dash.ctx.triggered_id, dict) and any(clicks):
                    self.jobs.cancel(name)
                job = self.jobs.job(name)
            except UsageError as error:
                return dmc.Alert(str(error), color="red"), None, True
            return job_box(job), name if job.state == "done" else None, job.ended

        @app.callback(Output("edit-shown", "children"), Input("edit-done", "data"))
        def _shown(name: str | None) -> Any:
            if not name:
                return None
            found = self.jobs.result(name)
            reports = self.jobs.job(name).status.get("reports") or {}
            return None if found is None else edit_shown(found, reports)

    def _choosing(self, app: dash.Dash) -> None:
        """Which report and metric heads are chosen by, and their map."""

        @app.callback(
            Output("edit-report", "data"),
            Output("edit-report", "value"),
            Output("edit-metric", "data"),
            Output("edit-metric", "value"),
            Output("edit-heads", "data"),
            Output("edit-map", "children"),
            Input("edit-report", "value"),
            Input("edit-metric", "value"),
        )
        def _reports(name: str | None, metric: str | None) -> tuple[Any, ...]:
            names = self.library.names()
            chosen = name or (names[0] if names else None)
            try:
                report = None if chosen is None else self.library.open(chosen)
            except ProbeError:
                return names, chosen, [], None, [], None
            keys = [] if report is None else report.keys()
            kept = metric if metric in keys else (keys[0] if keys else None)
            if report is None or kept is None:
                return names, chosen, keys, kept, [], None
            answer = report.answer(kept)
            drawn = head_map(answer.head_map, title=kept, unit=answer.unit, tower=answer.tower)
            picked = figures.graph("pick", drawn, f"Map of {kept}", mark="pick")
            return names, chosen, keys, kept, head_names(report), picked

    def _taking(self, app: dash.Dash) -> None:
        """Heads taken by rank or from the map, and a preset's intervention."""

        @app.callback(
            Output("edit-heads", "value"),
            Input("edit-take", "n_clicks"),
            Input({"mark": "pick", "name": ALL}, "clickData"),
            State("edit-heads", "value"),
            State("edit-report", "value"),
            State("edit-metric", "value"),
            State("edit-top", "value"),
            prevent_initial_call=True,
        )
        def _take(_clicks: int, click: list[Any], heads: Any, name: str, metric: str, count: Any) -> Any:
            if isinstance(dash.ctx.triggered_id, dict):
                points = [one["points"][0].get("customdata") for one in click if one]
                return toggled(heads or [], points[0] if points else None)
            try:
                answer = self.library.open(name).answer(metric)
            except ProbeError:
                return dash.no_update
            return [head for head, _ in top_heads(answer, int(count or 1)) if ".H" in head]

        @app.callback(
            Output("edit-how", "value"),
            Output("edit-about", "children"),
            Input("edit-preset", "value"),
            prevent_initial_call=True,
        )
        def _preset(name: str | None) -> tuple[Any, Any]:
            if name not in PRESETS:
                return dash.no_update, None
            return PRESETS[name].spec, dmc.Text(PRESETS[name].about, size="xs", c="dimmed")


def toggled(heads: list[str], head: object) -> Any:
    """The heads with one more, or without it where it was among them; no change for what is no query head."""
    if not isinstance(head, str) or ".H" not in head:
        return dash.no_update
    return [one for one in heads if one != head] if head in heads else [*heads, head]


def request(model: str, heads: Any, how: str, text: str, words: str, new: Any, seed: Any) -> dict[str, Any]:
    """What the worker is asked, checked as far as that needs no model; raises `UsageError`."""
    if not (text or "").strip():
        raise UsageError("an edit was asked without a text; write one")
    spec = Spec.parse((how or "").strip())
    named = [str(HeadId.parse(head)) for head in heads or []]
    if named and "heads" in spec.params:
        raise UsageError("heads were given in the intervention and beside it; give them once")
    more = f"heads={'+'.join(named)}" if named else ""
    joined = ",".join(part for part in (spec.text.partition(":")[2], more) if part)
    asked = {
        "work": "edit",
        "model": model,
        "text": text,
        "interventions": [spec.name + (f":{joined}" if joined else "")],
        "new_tokens": whole(new, "New tokens", 1) or 20,
        "seed": whole(seed, "Seed of the control", 0) or 0,
    }
    if (words or "").strip():
        at = text.find(words)
        if at < 0:
            raise UsageError(
                f"the span {words!r} was asked; the text does not hold these words: copy them from it"
            )
        asked["spans"] = {"span": [at, at + len(words)]}
    return asked
