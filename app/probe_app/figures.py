"""Figures on a page, each with a way to save the picture and the numbers behind it."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ALL, MATCH, Input, Output, State, dcc, html

FORMATS = {"png": "Picture (PNG)", "svg": "Picture (SVG)", "html": "Page (HTML)", "csv": "Numbers (CSV)"}
_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "toImage"],
}


def graph(name: str, figure: go.Figure, label: str, *, mark: str = "figure") -> html.Figure:
    """A figure with its menu of ways to save it; `label` is what a screen reader says of it.

    `mark` tells apart what answers to clicks in it: ``{"mark": mark, "name": name}`` is the graph's id.
    """
    return html.Figure(
        [
            dcc.Graph(id={"mark": mark, "name": name}, figure=figure, config=_CONFIG, responsive=True),
            html.Figcaption(_menu(mark, name, label)),
        ],
        className="figure",
        role="group",
        **{"aria-label": label},
    )


def _menu(mark: str, name: str, label: str) -> object:
    items = [
        dmc.MenuItem(text, id={"save": mark, "name": name, "as": kind}, n_clicks=0)
        for kind, text in FORMATS.items()
    ]
    button = dmc.Button("Save", size="compact-xs", variant="subtle", **{"aria-label": f"Save {label}"})
    return [
        dmc.Menu([dmc.MenuTarget(button), dmc.MenuDropdown(items)], position="bottom-end"),
        dcc.Download(id={"download": mark, "name": name}),
    ]


def connect(app: dash.Dash, mark: str) -> None:
    """Answer to the menus of the figures of one kind."""

    @app.callback(
        Output({"download": mark, "name": MATCH}, "data"),
        Input({"save": mark, "name": MATCH, "as": ALL}, "n_clicks"),
        State({"mark": mark, "name": MATCH}, "figure"),
        prevent_initial_call=True,
    )
    def _save(clicks: list[int], figure: dict[str, Any]) -> object:
        asked = dash.ctx.triggered_id
        if not any(clicks) or asked is None or asked["as"] not in ("html", "csv"):
            return dash.no_update
        title = file_name(figure)
        if asked["as"] == "csv":
            return {"content": as_csv(figure), "filename": f"{title}.csv", "type": "text/csv"}
        page = go.Figure(figure).to_html(include_plotlyjs=True, full_html=True)
        return {"content": page, "filename": f"{title}.html", "type": "text/html"}

    app.clientside_callback(
        dash.ClientsideFunction("probe", "picture"),
        Output({"mark": mark, "name": MATCH}, "className"),
        Input({"save": mark, "name": MATCH, "as": ALL}, "n_clicks"),
        State({"mark": mark, "name": MATCH}, "figure"),
        prevent_initial_call=True,
    )


def file_name(figure: dict[str, Any]) -> str:
    """A file's name from a figure's title: letters, digits, dots and dashes."""
    title = figure.get("layout", {}).get("title", {}).get("text") or "figure"
    kept = "".join(mark if mark.isalnum() or mark in "._" else "-" for mark in title)
    return kept.strip("-.")[:80] or "figure"


def as_csv(figure: dict[str, Any]) -> str:
    r"""The numbers of a figure as a table: a row per cell of a map, or per point.

    >>> as_csv({"data": [{"type": "heatmap", "x": [0, 1], "y": [5], "z": [[0.5, None]]}]})
    'y,x,value\\r\\n5,0,0.5\\r\\n5,1,\\r\\n'
    """
    out = io.StringIO()
    table = csv.writer(out)
    for number, trace in enumerate(figure.get("data", ())):
        if trace.get("hoverinfo") == "skip":
            continue
        rows = _cells(trace) if trace.get("type") == "heatmap" else _points(trace)
        for count, row in enumerate(rows):
            if count == 0 and (number == 0 or not out.tell()):
                table.writerow(["y", "x", "value"] if trace.get("type") == "heatmap" else ["name", "x", "y"])
            table.writerow(["" if value is None else _plain(value) for value in row])
    return out.getvalue()


def _cells(trace: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    z, shown = values(trace["z"]), trace.get("meta")
    exact = values(trace["customdata"]) if shown == "exact" else z
    x, y = values(trace.get("x")) or range(len(z[0])), values(trace.get("y")) or range(len(z))
    for row, label in zip(exact, y, strict=False):
        for value, column in zip(row, x, strict=False):
            yield label, column, value


def _points(trace: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    names = values(trace.get("customdata")) or values(trace.get("text")) or []
    for at, (x, y) in enumerate(zip(values(trace["x"]), values(trace["y"]), strict=False)):
        yield (names[at] if at < len(names) else ""), x, y


def values(stored: Any) -> list[Any]:
    """A trace's array as lists: figures in the browser hold numbers as base64 of their bytes."""
    import base64

    import numpy as np

    if isinstance(stored, dict) and "bdata" in stored:
        flat = np.frombuffer(base64.b64decode(stored["bdata"]), dtype=np.dtype(stored["dtype"]))
        if flat.dtype == np.float32:
            flat = flat.astype(str).astype(
                np.float64
            )  # the shortest number that is stored alike: 0.1, not 0.100000001
        shape = [int(size) for size in str(stored.get("shape", flat.size)).split(",")]
        return list(flat.reshape(shape).tolist())
    return [] if stored is None else [list(one) if isinstance(one, tuple) else one for one in stored]


def _plain(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
