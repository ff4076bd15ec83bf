"""Two head maps against each other: a point per head, and the line where both are equal."""

import math
from html import escape

import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, colorscale
from probe.report.ranking import cells, head_axis, head_name


def head_scatter(
    one: xr.DataArray, other: xr.DataArray, *, names: tuple[str, str] = ("first", "second"), title: str = ""
) -> go.Figure:
    """Draw `other` over `one`, a point per head that both define, coloured by layer, with the identity line.

    Raises:
        ReportError: no head has a value in both.
    """
    axis = head_axis(one)
    values = {(layer, head): value for layer, head, value in cells(other)}
    both = [
        (layer, head, value, values[layer, head])
        for layer, head, value in cells(one)
        if math.isfinite(value) and math.isfinite(values.get((layer, head), math.nan))
    ]
    if not both:
        raise ReportError("two maps were to be compared; no head has a value in both: choose other reports")
    x, y = [point[2] for point in both], [point[3] for point in both]
    low, high = min(*x, *y), max(*x, *y)
    figure = go.Figure(
        [
            go.Scatter(
                x=[low, high], y=[low, high], mode="lines", line={"dash": "dot", "width": 1}, hoverinfo="skip",
                showlegend=False,
            ),
            go.Scatter(
                x=x, y=y, mode="markers", showlegend=False,
                customdata=[head_name("decoder", layer, head, axis) for layer, head, *_ in both],
                marker={
                    "color": [layer for layer, *_ in both], "colorscale": colorscale(), "size": 8,
                    "colorbar": {"title": {"text": "layer"}}, "line": {"width": 0.5},
                },
                hovertemplate="%{customdata}: %{x:.4g} → %{y:.4g}<extra></extra>",
            ),
        ]
    )  # fmt: skip
    figure.update_layout(
        template=TEMPLATE,
        title={"text": escape(title)},
        xaxis={"title": {"text": escape(names[0])}},
        yaxis={"title": {"text": escape(names[1])}},
    )
    return figure
