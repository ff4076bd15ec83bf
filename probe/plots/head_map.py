"""A head map as a picture: layers down, heads across."""

import math
from html import escape

import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, colorscale, steady
from probe.report.ranking import axis_labels, cells, head_axis, head_name

_PIXELS = 18  # of one cell
_TALLEST = 1400


def head_map(
    data: xr.DataArray, *, title: str | None = None, unit: str = "", tower: str = "decoder"
) -> go.Figure:
    """Draw a head map, axes (layer, head) or (layer,): a cell per head, grey where undefined, named on hover.

    A map without axes, one number of the whole model, is written out.

    Args:
        data: A head map, such as ``report["entropy"]``.
        title: Above the figure; the array's own name where there is one.
        unit: Of the values, written at the colour bar.
        tower: Of the heads, for their names.

    Raises:
        ReportError: the array has other axes.
    """
    axis = head_axis(data)
    if axis == "model":
        return _number(float(data), title if title is not None else str(data.name or ""), unit)
    if set(data.dims) != {"layer", axis}:
        found = ", ".join(map(str, data.dims))
        raise ReportError(
            f"a head map was asked; the array has axes ({found}): select one, to leave (layer, head)"
        )
    layers = axis_labels(data, "layer")
    heads = [0] if axis == "layer" else axis_labels(data, axis)
    values, names = _grids(data, layers, heads, tower)
    heat = go.Heatmap(
        z=values,
        x=[str(head) for head in heads],
        y=[str(layer) for layer in layers],
        customdata=names,
        colorscale=colorscale(),
        colorbar={"title": {"text": escape(unit)}},
        hovertemplate="%{customdata}: %{z:.4g}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    shown = title if title is not None else str(data.name or "")
    # Given with the data: an update of a figure that is there takes three times as long.
    layout = {
        "template": TEMPLATE,
        "title": {"text": escape(shown)},
        "height": min(_TALLEST, 140 + _PIXELS * len(layers)),
        "xaxis": {"title": {"text": axis}, "type": "category", "visible": axis != "layer"},
        "yaxis": {"title": {"text": "layer"}, "type": "category", "autorange": "reversed"},
        **steady(unit),
    }
    return go.Figure(heat, layout)


def _number(value: float, title: str, unit: str) -> go.Figure:
    defined = math.isfinite(value)
    shown = escape(f"{value:.4g} {unit}".strip()) if defined else "the value is not defined"
    text = go.Scatter(
        x=[0],
        y=[value if defined else None],
        mode="text",
        text=[shown],
        textfont={"size": 40},
        hovertemplate=f"{shown}<extra></extra>",
    )
    figure = go.Figure(text)
    if not defined:
        figure.add_annotation(text=shown, showarrow=False)
    hidden = {"visible": False}
    figure.update_layout(
        template=TEMPLATE,
        title={"text": escape(title)},
        height=200,
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=hidden,
        yaxis=hidden,
    )
    return figure


def _grids(
    data: xr.DataArray, layers: list[int], heads: list[int], tower: str
) -> tuple[list[list[float | None]], list[list[str]]]:
    axis = head_axis(data)
    values: list[list[float | None]] = [[None] * len(heads) for _ in layers]
    names = [[""] * len(heads) for _ in layers]
    row, column = {n: i for i, n in enumerate(layers)}, {n: i for i, n in enumerate(heads)}
    for layer, head, value in cells(data):
        names[row[layer]][column[head]] = head_name(tower, layer, head, axis)
        values[row[layer]][column[head]] = value if math.isfinite(value) else None
    return values, names
