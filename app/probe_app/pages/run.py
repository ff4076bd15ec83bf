"""Runs: ask for an analysis, follow it, end it; the report is there when it is done, whoever closed the page."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
from dash import ALL, Input, Output, State, dcc, html

from probe.errors import ProbeError, UsageError
from probe.terms import DEFAULT_METRICS
from probe_app.address import write
from probe_app.job_view import job_list
from probe_app.offered import checked_specs, choices
from probe_app.pages.page import Page

LARGEST = 2**20  # bytes of an uploaded text


class Run(Page):
    """A form for `probe.analyze`, and the runs so far."""

    path: ClassVar[str] = "/run"
    name: ClassVar[str] = "run"
    title: ClassVar[str] = "Run"
    what: ClassVar[str] = "analyze a text"

    def layout(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """The form on one side, the runs on the other."""
        form = dmc.Stack(
            [
                dmc.Autocomplete(id="run-model", label="Model", data=self.models.names, value=self.models.names[0],
                                 description="A known model, or a hub id such as org/name."),
                dmc.Textarea(id="run-text", label="Text", autosize=True, minRows=4, maxRows=12,
                             description="Left empty, the text that ships with probe is read."),
                dcc.Upload(dmc.Button("Read a text file", variant="default", size="xs"), id="run-file",
                           accept=".txt,.md,text/plain", max_size=LARGEST, multiple=False),
                dmc.TagsInput(id="run-metrics", label="Metrics, experiments and suites", data=choices(),
                              value=list(DEFAULT_METRICS),
                              description="Names, with parameters where you want them: sink:n=4"),
                dmc.Group(
                    [
                        dmc.NumberInput(id="run-tokens", label="Most tokens", value=512, min=1, max=131072, w=140),
                        dmc.NumberInput(id="run-seed", label="Seed", value=0, min=0, w=100),
                        dmc.Select(id="run-keep", label="Keep", value="map", allowDeselect=False, w=275,
                                   data=[{"value": "map", "label": "a pooled map of every head"},
                                         {"value": "qk", "label": "what exact zooms need"}]),
                    ]
                ),
                dmc.Button("Analyze", id="run-start", n_clicks=0),
                html.Div(id="run-said"),
            ]
        )  # fmt: skip
        content = dmc.Stack(
            [
                dmc.Grid(
                    [
                        dmc.GridCol(
                            [dmc.Title("A new run", order=2, size="h4"), form], span={"base": 12, "md": 6}
                        ),
                        dmc.GridCol(
                            [dmc.Title("Runs", order=2, size="h4"), html.Div(id="run-jobs")],
                            span={"base": 12, "md": 6},
                        ),
                    ]
                ),
                dcc.Interval(id="run-clock", interval=1000),
            ]
        )
        return content, write(fields)

    def connect(self, app: dash.Dash) -> None:
        """Start, follow, cancel."""

        @app.callback(
            Output("run-said", "children"),
            Input("run-start", "n_clicks"),
            State("run-model", "value"),
            State("run-text", "value"),
            State("run-metrics", "value"),
            State("run-tokens", "value"),
            State("run-seed", "value"),
            State("run-keep", "value"),
            prevent_initial_call=True,
        )
        def _start(
            _clicks: int, model: str, text: str, metrics: Any, tokens: Any, seed: Any, keep: str
        ) -> Any:
            try:
                name = self.jobs.start(
                    {
                        "work": "analyze",
                        "model": self.models.checked(model),
                        "text": text or "",
                        "metrics": checked_specs(metrics or []),
                        "max_tokens": whole(tokens, "Most tokens", 1),
                        "seed": whole(seed, "Seed", 0),
                        "keep": keep if keep in ("map", "qk") else "map",
                    }
                )
            except ProbeError as error:
                return dmc.Alert(str(error), color="red", id="run-refused")
            return dmc.Text(f"Started {name}. You may close this page.", size="sm")

        self._besides(app)

    def _besides(self, app: dash.Dash) -> None:
        """Read a file into the form, follow the runs, and end one."""

        @app.callback(
            Output("run-text", "value"),
            Output("run-said", "children", allow_duplicate=True),
            Input("run-file", "contents"),
            State("run-file", "filename"),
            prevent_initial_call=True,
        )
        def _read(contents: str | None, filename: str | None) -> tuple[Any, Any]:
            try:
                text = uploaded(contents)
            except UsageError as error:
                return dash.no_update, dmc.Alert(str(error), color="red", id="run-refused")
            return text, dmc.Text(f"Read {len(text):,} characters of {filename}.", size="sm")

        @app.callback(
            Output("run-jobs", "children"),
            Input("run-clock", "n_intervals"),
            Input({"cancel": ALL}, "n_clicks"),
        )
        def _follow(_ticks: int | None, clicks: list[int | None]) -> Any:
            asked = dash.ctx.triggered_id
            if isinstance(asked, dict) and any(clicks):
                self.jobs.cancel(str(asked["cancel"]))
            return job_list(self.jobs, "analyze")


def whole(value: Any, name: str, low: int) -> int | None:
    """A whole number of a field, None where it is empty; raises `UsageError`."""
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < low:
        raise UsageError(f"{name} was {value!r}; it must be a whole number of at least {low}")
    return int(value)


def uploaded(contents: str | None) -> str:
    """The text of an uploaded file; raises `UsageError` where it is too large or no UTF-8 text."""
    _, _, coded = (contents or "").partition(",")
    try:
        raw = base64.b64decode(coded, validate=True)
    except binascii.Error as error:
        raise UsageError("a file was uploaded; it did not arrive whole: try again") from error
    if len(raw) > LARGEST:
        raise UsageError(
            f"a file of {len(raw):,} bytes was uploaded; at most {LARGEST:,} are read: shorten it"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("a file was uploaded; it is no UTF-8 text: save it as UTF-8") from error
    if "\0" in text or not text.strip():
        raise UsageError("a file was uploaded; it holds no text: choose a text file")
    return text
