"""What a place in a layer is worth, as a picture: layers down, positions across, zero in the middle of the colours."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, diverging

_PIXELS = 18  # of one cell
_TALLEST = 1400


def position_map(data: xr.DataArray, *, title: str | None = None, unit: str = "") -> go.Figure:
    """Draw numbers by layer and position, one cell each, grey where undefined.

    Args:
        data: Axes (layer, position), such as ``report.answer("relp").extra["by_position"]`` of a node of the stream; of
            a node with heads select one, or a layer, which leaves (head, position).
        title: Above the figure; the array's own name where there is one.
        unit: Of the values, written at the colour bar.

    Raises:
        ReportError: the array has other axes.
    """
    if data.ndim != 2 or data.dims[-1] != "position":
        found = ", ".join(map(str, data.dims))
        raise ReportError(
            f"numbers by position were asked; the array has axes ({found}): select, to leave (layer, position)"
        )
    axis = str(data.dims[0])
    rows, places = _labels(data, axis), _labels(data, "position")
    values = np.asarray(data.values, np.float64)
    finite = np.abs(values[np.isfinite(values)])
    most = (float(finite.max()) if finite.size else 0.0) or 1.0
    heat = go.Heatmap(
        z=[[value if np.isfinite(value) else None for value in row] for row in values.tolist()],
        x=list(range(len(places))),
        y=rows,
        customdata=[[f"{axis} {row}, {place}" for place in places] for row in rows],
        colorscale=diverging(),
        zmid=0.0,
        zmin=-most,
        zmax=most,
        colorbar={"title": {"text": escape(unit)}},
        hovertemplate="%{customdata}: %{z:.4g}<extra></extra>",
        hoverongaps=False,
    )
    shown = title if title is not None else str(data.name or "")
    layout = {
        "template": TEMPLATE,
        "title": {"text": escape(shown)},
        "height": min(_TALLEST, 180 + _PIXELS * len(rows)),
        # By number: two positions may hold the same token.
        "xaxis": {"title": {"text": "position"}, "tickvals": list(range(len(places))), "ticktext": places},
        "yaxis": {"title": {"text": axis}, "type": "category", "autorange": "reversed"},
    }
    return go.Figure(heat, layout)


def _labels(data: xr.DataArray, axis: str) -> Sequence[str]:
    if axis not in data.coords:
        return [str(place) for place in range(data.sizes[axis])]
    return [escape(str(label)) for label in data.coords[axis].values.tolist()]
