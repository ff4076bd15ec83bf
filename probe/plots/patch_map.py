"""Numbers per image patch, laid over the image where it is at hand."""

import math

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, colorscale

_MOST_SPECIAL = 8  # tokens before the patches: CLS and registers
_PIXELS = 420


def patch_map(data: xr.DataArray, *, image: str | None = None, title: str = "", unit: str = "") -> go.Figure:
    """Draw numbers per token of a vision tower as the square of patches that they are, over the image if it is given.

    Tokens before the patches (CLS, registers) are left out: as few as leave a square number.

    Args:
        data: Axis (token,): a token map of one head.
        image: The picture, as a ``data:`` address.
        title: Above the figure.
        unit: Of the values.

    Raises:
        ReportError: another axis, or a number of tokens that makes no square.
    """
    if tuple(data.dims) != ("token",):
        raise ReportError(
            f"numbers per patch were asked; the array has axes {tuple(data.dims)}: select one head"
        )
    special, side = _square(data.sizes["token"])
    grid = np.asarray(data.values, np.float64)[special:].reshape(side, side)
    heat = go.Heatmap(
        z=grid,
        x=list(range(side)),
        y=list(range(side)),
        colorscale=colorscale(),
        colorbar={"title": {"text": unit}},
        opacity=1.0 if image is None else 0.6,
        hovertemplate="row %{y}, column %{x}: %{z:.4g}<extra></extra>",
    )
    figure = go.Figure(heat)
    if image is not None:
        corner = {"x": -0.5, "y": -0.5, "sizex": side, "sizey": side, "sizing": "stretch", "layer": "below"}
        figure.add_layout_image(source=image, xref="x", yref="y", yanchor="top", **corner)
    hidden = {"visible": False, "range": [-0.5, side - 0.5]}
    figure.update_layout(
        template=TEMPLATE,
        title={"text": title},
        height=_PIXELS,
        xaxis={**hidden, "constrain": "domain"},
        yaxis={**hidden, "range": [side - 0.5, -0.5], "scaleanchor": "x"},
    )
    return figure


def _square(tokens: int) -> tuple[int, int]:
    """How many tokens come before the patches, and the side of their square."""
    for special in range(_MOST_SPECIAL + 1):
        side = math.isqrt(max(0, tokens - special))
        if side > 1 and side * side == tokens - special:
            return special, side
    raise ReportError(f"numbers per patch were asked; {tokens} tokens make no square of patches")
