"""How good a circuit is over its size, beside random circuits of the same sizes."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import INK, PAPER, TEMPLATE, signed

_BAND = "rgba(110, 118, 129, 0.25)"
_DASHES = ("solid", "dash", "dot", "dashdot")


def circuit_curve(
    curves: xr.DataArray, *, random: xr.DataArray | None = None, title: str | None = None, unit: str = ""
) -> go.Figure:
    """Draw numbers of circuits over how many parts they have; the band is what random circuits of that size reach.

    Args:
        curves: Axes (size,) for one curve, or (curve, size) for several that are named (``faithfulness``,
            ``completeness``); the coordinate ``size`` counts the parts.
        random: Axes (draw, size): the band spans all draws, a thin line is their mean.
        title: Above the figure; the array's own name where there is one.
        unit: Of the numbers, at the axis.

    Raises:
        ReportError: other axes.
    """
    if curves.dims not in (("size",), ("curve", "size")):
        raise ReportError(
            f"a curve over sizes was asked; the array has axes {tuple(curves.dims)}: select, to leave (curve, size)"
        )
    if random is not None and random.dims != ("draw", "size"):
        raise ReportError(
            f"random circuits were given with axes {tuple(random.dims)}: give one curve per draw, (draw, size)"
        )
    figure = go.Figure([] if random is None else _band(random))
    sizes = _sizes(curves)
    for number, (name, values) in enumerate(_lines(curves)):
        figure.add_trace(
            go.Scatter(
                x=sizes,
                y=_numbers(values),
                name=escape(name),
                mode="lines+markers",
                line={
                    "color": signed(1.0 if number % 2 == 0 else -1.0),
                    "dash": _DASHES[number // 2 % len(_DASHES)],
                },
                hovertemplate=f"{escape(name)}, %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        )
    figure.update_layout(
        template=TEMPLATE,
        title={"text": escape(str(curves.name or "") if title is None else title)},
        plot_bgcolor=PAPER,
        showlegend=True,
        xaxis={"title": {"text": "parts in the circuit"}},
        yaxis={"title": {"text": escape(unit)}, "zeroline": True, "zerolinecolor": INK},
    )
    return figure


def _sizes(data: xr.DataArray) -> list[float]:
    found = data.coords["size"].values if "size" in data.coords else np.arange(data.sizes["size"])
    return np.asarray(found, np.float64).tolist()


def _lines(curves: xr.DataArray) -> Sequence[tuple[str, np.ndarray]]:
    if curves.dims == ("size",):
        return [(str(curves.name or "circuit"), np.asarray(curves.values, np.float64))]
    names = (
        curves.coords["curve"].values.tolist() if "curve" in curves.coords else range(curves.sizes["curve"])
    )
    return [(str(name), np.asarray(one, np.float64)) for name, one in zip(names, curves.values, strict=True)]


def _band(random: xr.DataArray) -> list[go.Scatter]:
    values = np.asarray(random.values, np.float64)
    kept = np.isfinite(values).any(axis=0)
    sizes, values = np.array(_sizes(random))[kept], values[:, kept]
    ends = (np.nanmin(values, axis=0), np.nanmax(values, axis=0), np.nanmean(values, axis=0))
    name = f"{values.shape[0]} random circuits"
    low, high, mean = (go.Scatter(x=sizes.tolist(), y=end.tolist(), mode="lines", name=name) for end in ends)
    low.update(line={"width": 0}, hoverinfo="skip", showlegend=False)
    high.update(line={"width": 0}, hoverinfo="skip", fill="tonexty", fillcolor=_BAND, showlegend=False)
    mean.update(line={"color": INK, "width": 1}, hovertemplate="random, %{x}: mean %{y:.4g}<extra></extra>")
    return [low, high, mean]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
