"""One head: its map down to single tokens, its text token by token, and how it stands among the others."""

from collections.abc import Mapping
from typing import Any, ClassVar

import dash
import dash_mantine_components as dmc
from dash import MATCH, ClientsideFunction, Input, Output, State, dcc, html

from probe.errors import ProbeError
from probe_app import figures, sentences
from probe_app.address import read, span
from probe_app.head_choice import parse_head
from probe_app.head_view import head_view
from probe_app.pages.page import Page
from probe_app.patches import patches, picture
from probe_app.redraw import Redraw
from probe_app.said import problem
from probe_app.tokens import STEP

_TILE = {"mark": "tile", "name": "pattern"}
_OWN = "head-address"  # the page's view of the address
_FIELDS = {
    "head-name": "head",
    "head-prompt": "prompt",
    "head-by": "by",
    "head-queries": "q",
    "head-keys": "k",
}
_TOUCHED = ("head-report", *_FIELDS)  # controls with a value, in the order of the callback's inputs
_OUTPUTS = {
    "search": Output(_OWN, "search"),
    "reports": Output("head-report", "data"),
    "report": Output("head-report", "value"),
    "heads": Output("head-name", "data"),
    "head": Output("head-name", "value"),
    "prompts": Output("head-prompt", "data"),
    "prompt": Output("head-prompt", "value"),
    "bys": Output("head-by", "data"),
    "by": Output("head-by", "value"),
    "facts": Output("head-facts", "children"),
    "how": Output("head-how", "children"),
    "figure": Output(_TILE, "figure"),
    "queries": Output("head-queries", "value"),
    "keys": Output("head-keys", "value"),
    "standing": Output("head-standing", "children"),
    "words": Output("head-words", "data"),
    "rows": Output("head-rows", "data"),
    "values": Output("head-values", "data"),
    "legend": Output("head-legend", "children"),
    "sentences": Output("head-sentences", "children"),
    "patches": Output("head-patches", "children"),
    "shown": Output("head-shown", "data"),
}


class Head(Page):
    """Everything a report holds about one head."""

    path: ClassVar[str] = "/head"
    name: ClassVar[str] = "head"
    title: ClassVar[str] = "Head"
    what: ClassVar[str] = "one head, token by token"

    def layout(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """Choices, standing, map, text: all of it at once, so that opening a page is one question to the server."""
        redraw = Redraw()
        told = head_view(self.library, fields, redraw)
        redraw.address(told["search"])
        standing = [
            dmc.Title("Among the others", order=2, size="h4"),
            html.Div(told["standing"], id="head-standing"),
        ]
        columns = [
            dmc.GridCol(_pattern(told), span={"base": 12, "lg": 7}),
            dmc.GridCol(standing, span={"base": 12, "lg": 5}),
        ]
        content = dmc.Stack(
            [
                dmc.Group(_choices(told), align="flex-start"),
                html.Div(told["facts"], id="head-facts"),
                dmc.Grid(columns),
                html.Div(told["patches"], id="head-patches"),
                *_text(told),
                html.Div(told["sentences"], id="head-sentences"),
                dcc.Store(id="head-shown", data=redraw.drawn),
            ]
        )
        return content, told["search"]

    def connect(self, app: dash.Dash) -> None:
        """Every choice goes into the address, and the address says what is shown."""
        figures.connect(app, "tile")
        figures.connect(app, sentences.MARK)

        @app.callback(
            output=_OUTPUTS,
            inputs=[
                Input(_OWN, "search"),
                *(Input(one, "value") for one in _TOUCHED),
                *(Input(f"head-{name}", "n_clicks") for name in ("whole", "back", "on")),
                Input("token-chosen", "data"),
                State(_OWN, "pathname"),
                State("head-shown", "data"),
            ],
            prevent_initial_call=True,
        )
        def _all(search: str | None, *touched: Any) -> dict[str, Any]:
            *values, token, path, shown = touched
            self.stays(path)
            which = dash.ctx.triggered_id
            redraw = Redraw(shown)
            fields = _after(redraw.fields(search), which, values, token)
            told = head_view(self.library, fields, redraw)
            told["search"] = redraw.address(told["search"], which, _OWN)
            return {**told, "shown": redraw.drawn}

        self._apart(app)

    def _apart(self, app: dash.Dash) -> None:
        """What answers by itself: the map over an image; and, in the browser alone, setting tokens and zooming."""

        @app.callback(
            Output({"patches": MATCH, "what": "figure"}, "children"),
            Output({"patches": MATCH, "what": "said"}, "children"),
            Input(_OWN, "search"),
            Input({"patches": MATCH, "what": "picture"}, "contents"),
        )
        def _over_image(search: str | None, contents: str | None) -> tuple[Any, Any]:
            return self._over_image(read(search), contents)

        app.clientside_callback(
            ClientsideFunction("probe", "tokens"),
            Output("tokens", "className"),
            Input("head-words", "data"),
            Input("head-rows", "data"),
            Input("head-values", "data"),
        )
        app.clientside_callback(
            ClientsideFunction("probe", "zoom"),
            Output(_OWN, "search", allow_duplicate=True),
            Input(_TILE, "relayoutData"),
            prevent_initial_call=True,
        )

    def _over_image(self, fields: Mapping[str, str], contents: str | None) -> tuple[Any, Any]:
        """The map over an image of the reader's, or why there is none."""
        try:
            report = self.library.open(fields.get("report") or "")
            head = parse_head(fields.get("head"), report)
            figure = patches(report, head, fields, picture(contents))
        except ProbeError as error:
            return None, problem(error)
        return figures.graph("patches", figure, "Numbers per patch of the image", mark="tile"), None


def _choices(told: Mapping[str, Any]) -> list[object]:
    return [
        dmc.Select(
            id="head-report", label="Report", searchable=True, w=320, data=told["reports"], value=told["report"]
        ),
        dmc.Select(id="head-name", label="Head", searchable=True, w=140, data=told["heads"], value=told["head"]),
        dmc.Select(
            id="head-prompt", label="Prompt", searchable=True, w=240, allowDeselect=False,
            data=told["prompts"], value=told["prompt"],
        ),
    ]  # fmt: skip


def _text(told: Mapping[str, Any]) -> list[object]:
    """The place of the text: the browser sets its tokens from what the stores hold."""
    shading = [
        dmc.Title("The text", order=2, size="h4"),
        dmc.Select(
            id="head-by", label="Shade by", w=260, allowDeselect=False, data=told["bys"], value=told["by"]
        ),
        dmc.Button("◀ Earlier", id="head-back", variant="default", size="sm", n_clicks=0),
        dmc.Button("Later ▶", id="head-on", variant="default", size="sm", n_clicks=0),
    ]
    return [
        dmc.Group(shading, align="flex-end"),
        dcc.Store(id="token-chosen"),
        dcc.Store(id="head-words", data=told["words"]),
        dcc.Store(id="head-rows", data=told["rows"]),
        dcc.Store(id="head-values", data=told["values"]),
        dmc.Text(told["legend"], id="head-legend", size="sm"),
        html.Div(id="tokens", className="tokens", role="list"),
    ]


def _pattern(told: Mapping[str, Any]) -> list[Any]:
    """The map's place, and its ranges as text for those who do not drag."""

    def range_of(name: str, label: str) -> object:
        return dmc.TextInput(
            id=f"head-{name}", label=label, placeholder="0-64", w=130, debounce=True, value=told[name]
        )

    whole = dmc.Button("Whole map", id="head-whole", variant="default", size="sm", n_clicks=0)
    return [
        dmc.Title("Where it looks", order=2, size="h4"),
        html.Div(told["how"], id="head-how"),
        figures.graph("pattern", told["figure"], "Attention of the head", mark="tile"),
        dmc.Group([range_of("queries", "Queries"), range_of("keys", "Keys"), whole], align="flex-end"),
    ]


def _after(fields: dict[str, str], which: Any, values: list[Any], token: Any) -> dict[str, str]:
    """The fields after what was touched."""
    if which == "head-report":
        # A control also speaks up when it is given its value; only what differs from the address is a choice.
        return fields if values[0] == fields.get("report") else {"report": values[0] or ""}
    if isinstance(which, str) and which in _FIELDS:
        return {**fields, _FIELDS[which]: values[_TOUCHED.index(which)] or ""}
    if which == "head-whole":
        return {**fields, "q": "", "k": ""}
    if which in ("head-back", "head-on"):
        start = span(fields.get("t"), 10**9)[0] + (STEP if which == "head-on" else -STEP)
        return {**fields, "t": f"{max(0, start)}-{max(0, start) + STEP}"}
    if which == "token-chosen" and token is not None:
        return {**fields, "at": str(token)}
    return fields
