"""One head: its map down to single tokens, its text token by token, and how it stands among the others."""

from collections.abc import Mapping
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html

from probe.errors import ProbeError, ReportError
from probe.plots import attention_image
from probe.report import Report
from probe.report.kept import KeptRun
from probe.terms import HeadId
from probe_app import figures
from probe_app.address import read, span, write
from probe_app.head_choice import head_names, parse_head, standing
from probe_app.pages.page import Page
from probe_app.patches import LARGEST, patches, picture
from probe_app.said import facts, problem
from probe_app.tile import KeptView, zoomed
from probe_app.tokens import STEP, by_choices, text_view

_TILE = {"mark": "tile", "name": "pattern"}


class Head(Page):
    """Everything a report holds about one head."""

    path: ClassVar[str] = "/head"
    name: ClassVar[str] = "head"
    title: ClassVar[str] = "Head"
    what: ClassVar[str] = "one head, token by token"

    def layout(self, fields: Mapping[str, str]) -> Any:
        """Choices, standing, map, text."""
        choices = [
            dmc.Select(id="head-report", label="Report", searchable=True, w=320),
            dmc.Select(id="head-name", label="Head", searchable=True, w=140),
            dmc.Select(id="head-prompt", label="Prompt", searchable=True, w=240, allowDeselect=False),
        ]
        shading = [
            dmc.Title("The text", order=2, size="h4"),
            dmc.Select(id="head-by", label="Shade by", w=260, allowDeselect=False),
            dmc.Button("◀ Earlier", id="head-back", variant="default", size="sm", n_clicks=0),
            dmc.Button("Later ▶", id="head-on", variant="default", size="sm", n_clicks=0),
        ]
        standing_here = [dmc.Title("Among the others", order=2, size="h4"), html.Div(id="head-standing")]
        return dmc.Stack(
            [
                dmc.Group(choices, align="flex-start"),
                html.Div(id="head-facts"),
                dmc.Grid(
                    [
                        dmc.GridCol(_pattern(), span={"base": 12, "lg": 7}),
                        dmc.GridCol(standing_here, span={"base": 12, "lg": 5}),
                    ]
                ),
                html.Div(_patches(), id="head-patches", hidden=True),
                dmc.Group(shading, align="flex-end"),
                dcc.Store(id="token-chosen"),
                html.Div(id="head-text"),
            ]
        )

    def connect(self, app: dash.Dash) -> None:
        """Every choice goes into the address, and the address says what is shown."""
        figures.connect(app, "tile")

        @app.callback(
            Output("head-address", "search"),
            Output("head-report", "data"),
            Output("head-report", "value"),
            Output("head-name", "data"),
            Output("head-name", "value"),
            Output("head-prompt", "data"),
            Output("head-prompt", "value"),
            Output("head-by", "data"),
            Output("head-by", "value"),
            Output("head-facts", "children"),
            Output("head-how", "children"),
            Output(_TILE, "figure"),
            Output("head-queries", "value"),
            Output("head-keys", "value"),
            Output("head-standing", "children"),
            Output("head-text", "children"),
            Input("head-address", "search"),
            Input("head-report", "value"),
            Input("head-name", "value"),
            Input("head-prompt", "value"),
            Input("head-by", "value"),
            Input("head-queries", "value"),
            Input("head-keys", "value"),
            Input("head-whole", "n_clicks"),
            Input("head-back", "n_clicks"),
            Input("head-on", "n_clicks"),
            Input("token-chosen", "data"),
        )
        def _all(search: str | None, *touched: Any) -> tuple[Any, ...]:
            return self._view(_touched(read(search), dash.ctx.triggered_id, touched))

        self._apart(app)

    def _apart(self, app: dash.Dash) -> None:
        """What answers by itself: the map over an image, and a drag over the map."""

        @app.callback(
            Output("head-patches", "hidden"),
            Output({"mark": "tile", "name": "patches"}, "figure"),
            Output("head-patches-said", "children"),
            Input("head-address", "search"),
            Input("head-picture", "contents"),
        )
        def _over_image(search: str | None, contents: str | None) -> tuple[bool, go.Figure, Any]:
            return self._over_image(read(search), contents)

        # Apart from the rest: a figure also reports what nobody asked for (its first size), and an answer of no change
        # would take the place of one that is still on its way.
        @app.callback(
            Output("head-address", "search", allow_duplicate=True),
            Input(_TILE, "relayoutData"),
            State("head-address", "search"),
            prevent_initial_call=True,
        )
        def _zoom(zoom: Any, search: str | None) -> Any:
            ranges = zoomed(zoom)
            return dash.no_update if ranges is None else write({**read(search), **ranges})

    def _over_image(self, fields: Mapping[str, str], contents: str | None) -> tuple[bool, go.Figure, Any]:
        """Whether there is nothing to lay over an image, and what there is."""
        asked = fields.get("head") or ""
        if not asked.startswith("vision.") or not fields.get("report"):
            return True, go.Figure(), None
        try:
            report = self.library.open(fields["report"])
            return False, patches(report, parse_head(asked, report), fields, picture(contents)), None
        except ProbeError as error:
            return False, go.Figure(), problem(error)

    def _view(self, fields: dict[str, str]) -> tuple[Any, ...]:
        names = self.library.names()
        name = fields.get("report") or (names[0] if names else "")
        listed = names if name in names or not name else [name, *names]
        try:
            if not name:
                raise ReportError("a head was asked; there is no report yet: run probe analyze first")
            report = self.library.open(name)
            head = parse_head(fields.get("head"), report)
            number = _prompt(fields.get("prompt"), report)
            return self._shown(
                {**fields, "report": name, "head": str(head), "prompt": str(number)}, listed, report
            )
        except ProbeError as error:
            nothing: tuple[Any, ...] = (None, go.Figure(), "", "", None, None)
            head_data = [fields["head"]] if fields.get("head") else []
            return (
                write(fields),
                listed,
                name,
                head_data,
                fields.get("head"),
                [],
                None,
                [],
                None,
                problem(error),
                *nothing,
            )

    def _shown(self, fields: dict[str, str], listed: list[str], report: Report) -> tuple[Any, ...]:
        head, number = HeadId.parse(fields["head"]), int(fields["prompt"])
        kept = self.library.kept(fields["report"])
        view = KeptView(kept, head, number)
        tokens = report.prompts[number].str_tokens if number < len(report.prompts) else ()
        by = by_choices(report, head, number, kept=kept.has_qk)
        chosen = fields.get("by") if fields.get("by") in by else (by[0] if by else None)
        how, figure, queries, keys = _image(view, fields, tokens, kept)
        text = text_view(report, view, {**fields, "by": chosen or ""})
        labels = [
            {"value": str(n), "label": f"{n}: {prompt.id}"} for n, prompt in enumerate(report.prompts)
        ] or [{"value": "0", "label": "0"}]
        return (
            write(fields), listed, fields["report"], head_names(report), str(head), labels, str(number), by, chosen,
            facts(report), how, figure, queries, keys, standing(report, head), text,
        )  # fmt: skip


def _patches() -> list[Any]:
    """The place of the map over an image, for heads of a vision tower."""
    choose = dmc.Button("Lay it over the image", variant="default", size="xs")
    return [
        dmc.Title("Over the image", order=2, size="h4"),
        dcc.Upload(
            choose, id="head-picture", accept="image/png,image/jpeg", max_size=LARGEST, multiple=False
        ),
        html.Div(id="head-patches-said"),
        figures.graph("patches", go.Figure(), "Numbers per patch of the image", mark="tile"),
    ]


def _pattern() -> list[Any]:
    """The map's place, and its ranges as text for those who do not drag."""

    def range_of(name: str, label: str) -> object:
        return dmc.TextInput(id=name, label=label, placeholder="0-64", w=130, debounce=True)

    whole = dmc.Button("Whole map", id="head-whole", variant="default", size="sm", n_clicks=0)
    return [
        dmc.Title("Where it looks", order=2, size="h4"),
        html.Div(id="head-how"),
        figures.graph("pattern", go.Figure(), "Attention of the head", mark="tile"),
        dmc.Group(
            [range_of("head-queries", "Queries"), range_of("head-keys", "Keys"), whole], align="flex-end"
        ),
    ]


def _touched(fields: dict[str, str], which: Any, touched: tuple[Any, ...]) -> dict[str, str]:
    """The fields after what was touched."""
    report, name, prompt, by, queries, keys, _whole, _back, _on, token = touched
    # A control also speaks up when it is given its value; only what differs from the address is a choice.
    if which == "head-report":
        return fields if report == fields.get("report") else {"report": report or ""}
    simple = {"head-name": ("head", name), "head-prompt": ("prompt", prompt), "head-by": ("by", by)}
    simple |= {"head-queries": ("q", queries), "head-keys": ("k", keys)}
    if isinstance(which, str) and which in simple:
        field, value = simple[which]
        return {**fields, field: value or ""}
    if which == "head-whole":
        return {**fields, "q": "", "k": ""}
    if which in ("head-back", "head-on"):
        start = span(fields.get("t"), 10**9)[0] + (STEP if which == "head-on" else -STEP)
        return {**fields, "t": f"{max(0, start)}-{max(0, start) + STEP}"}
    if which == "token-chosen" and token is not None:
        return {**fields, "at": str(token)}
    return fields


def _prompt(asked: str | None, report: Report) -> int:
    number = int(asked) if asked and asked.isdigit() else 0
    most = max(1, len(report.prompts), report.provenance.prompts)
    if number >= most:
        raise ReportError(f"prompt {number} was asked; the report has {most}, counted from 0: choose another")
    return number


def _image(
    view: KeptView, fields: Mapping[str, str], tokens: tuple[str, ...], kept: KeptRun
) -> tuple[Any, go.Figure, str, str]:
    if not (kept.has_qk or kept.has_map):
        return _not_kept("nothing of the pattern was kept"), go.Figure(), "", ""
    try:
        tile, exact, queries, keys = view.tile(fields.get("q"), fields.get("k"))
    except ReportError as error:
        return problem(error), go.Figure(), "", ""
    said = (
        "exact probabilities, token by token"
        if exact == "tokens"
        else f"mean probability of blocks ({exact})"
    )
    hint: list[Any] = [
        dmc.Text(f"Drag over the map to zoom in, double-click to zoom out. Shown: {said}.", size="sm")
    ]
    if not kept.has_qk:
        hint.append(_not_kept("only a pooled map was kept, so that a zoom ends at its blocks"))
    figure = attention_image(tile, tokens=tokens or None, title=str(view.head))
    return hint, figure, f"{queries[0]}-{queries[1]}", f"{keys[0]}-{keys[1]}"


def _not_kept(why: str) -> object:
    return dmc.Alert(
        [
            dmc.Text(f"In this report {why}. To zoom down to single tokens, run it again with:"),
            dmc.Code("probe analyze … --out DIR --keep qk", block=True),
        ],
        color="blue",
        title="A closer look",
    )
