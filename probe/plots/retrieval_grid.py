"""Needle tests as a picture: length by depth, whether the needle was found, and how much of it the best head copied."""

import math
from html import escape

import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, colorscale
from probe.report.answer import Answer

_PIXELS, _TALLEST = 20, 900  # of a depth; of the figure
_PANELS = (
    ("gate", "tests passed", "share of tests"),
    ("top_head", "copied by the best head", "share of answer tokens"),
)


def retrieval_grid(answer: Answer, *, title: str | None = None) -> go.Figure:
    """Draw an answer's needle tests, lengths across and depths down: the gate, and below it the score of the best head.

    The panels share their lengths, one above the other, so that a narrow page has room for every title. Both scales go
    from 0 to 1; cells in which no test counted are empty.

    Args:
        answer: Of an experiment that hides answers, such as ``report.answer("retrieval")``.
        title: Above the figure; the answer's spec where there is none.

    Raises:
        ReportError: the answer has no such tests.
    """
    missing = [name for name, *_ in _PANELS if set(_grid(answer, name).dims) != {"length", "depth"}]
    if missing:
        raise ReportError(
            f"needle tests were asked of {answer.spec!r}, which has no {' and no '.join(missing)} by (length, depth): "
            "give the answer of retrieval or json_retrieval"
        )
    rows = len(_PANELS)
    height = min(_TALLEST, 200 + rows * _PIXELS * _grid(answer, "gate").sizes["depth"])
    figure = make_subplots(
        rows=rows,
        shared_xaxes=True,
        vertical_spacing=48 / height,
        subplot_titles=[label for _, label, _ in _PANELS],
    )
    for row, (name, _, unit) in enumerate(_PANELS, start=1):
        figure.add_trace(_panel(_grid(answer, name), unit, last=row == rows), row=row, col=1)
    figure.update_xaxes(type="category")
    figure.update_xaxes(title={"text": "length (tokens)"}, row=rows, col=1)
    figure.update_yaxes(type="category", autorange="reversed", title={"text": "depth"})
    shown = escape(answer.spec if title is None else title)
    figure.update_layout(template=TEMPLATE, title={"text": shown}, height=height, margin={"t": 72})
    return figure


def _grid(answer: Answer, name: str) -> xr.DataArray:
    return answer.extra.get(name, xr.DataArray(math.nan))


def _panel(grid: xr.DataArray, unit: str, *, last: bool) -> go.Heatmap:
    values = grid.transpose("depth", "length")
    return go.Heatmap(
        z=[[cell if math.isfinite(cell) else None for cell in row] for row in values.values.tolist()],
        x=[f"{length:g}" for length in values["length"].values],
        y=[f"{depth:g}" for depth in values["depth"].values],
        zmin=0,
        zmax=1,
        colorscale=colorscale(),
        showscale=last,
        hovertemplate=f"length %{{x}}, depth %{{y}}: %{{z:.3g}} {unit}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
