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
    curves: xr.DataArray,
    *,
    random: xr.DataArray | None = None,
    interval: xr.DataArray | None = None,
    title: str | None = None,
    unit: str = "share of the difference",
) -> go.Figure:
    """Draw numbers of circuits over how many parts they have; the band is what random circuits of that size reach.

    The three arrays are ``extra["curve"]``, ``extra["random"]`` and ``extra["interval"]`` of circuit discovery.

    Args:
        curves: Axis ``size`` (its coordinate counts the parts), and where there are several curves one that names them.
        random: Axis ``size`` and one of draws: the band spans all draws, a thin line is their mean.
        interval: Axes (size, bound) with bounds ``low`` and ``high``, of the first curve.
        title: Above the figure; the array's own name where there is one.
        unit: Of the numbers, at the axis.

    Raises:
        ReportError: other axes.
    """
    lines = _lines(curves)
    figure = go.Figure([] if random is None else _band(random))
    sizes = _sizes(curves)
    for number, (name, values) in enumerate(lines):
        color, dash = signed(1.0 if number % 2 == 0 else -1.0), _DASHES[number // 2 % len(_DASHES)]
        figure.add_trace(
            go.Scatter(
                x=sizes,
                y=_numbers(values),
                name=escape(name),
                mode="lines+markers",
                line={"color": color, "dash": dash},
                error_y=_whiskers(values, interval) if number == 0 else None,
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


def _other(data: xr.DataArray, what: str) -> str | None:
    """The axis beside ``size``; raises `ReportError` where there is no size, or more than one beside it."""
    others = [str(name) for name in data.dims if name != "size"]
    if "size" not in data.dims or len(others) > 1:
        raise ReportError(
            f"{what} over sizes was asked; the array has axes {tuple(data.dims)}: select, to leave size and one more"
        )
    return others[0] if others else None


def _sizes(data: xr.DataArray) -> list[float]:
    found = data.coords["size"].values if "size" in data.coords else np.arange(data.sizes["size"])
    return [float(one) for one in found]


def _lines(curves: xr.DataArray) -> Sequence[tuple[str, np.ndarray]]:
    axis = _other(curves, "a curve")
    if axis is None:
        return [(str(curves.name or "circuit"), np.asarray(curves.values, np.float64))]
    names = curves.coords[axis].values.tolist() if axis in curves.coords else range(curves.sizes[axis])
    rows = np.asarray(curves.transpose(axis, "size").values, np.float64)
    return [(str(name), row) for name, row in zip(names, rows, strict=True)]


def _whiskers(values: np.ndarray, interval: xr.DataArray | None) -> dict[str, object] | None:
    if interval is None:
        return None
    if set(interval.dims) != {"size", "bound"} or interval.sizes["size"] != len(values):
        raise ReportError(
            f"an interval was given with axes {dict(interval.sizes)}: give bounds low and high of every size"
        )
    low, high = (interval.sel(bound=end).values for end in ("low", "high"))
    above, below = np.nan_to_num(np.maximum(high - values, 0)), np.nan_to_num(np.maximum(values - low, 0))
    return {
        "type": "data",
        "symmetric": False,
        "array": above.tolist(),
        "arrayminus": below.tolist(),
        "thickness": 1,
    }


def _band(random: xr.DataArray) -> list[go.Scatter]:
    axis = _other(random, "a band of random circuits")
    if axis is None:
        raise ReportError("a band of random circuits was asked; there is one draw: give an axis of draws")
    values = np.asarray(random.transpose(axis, "size").values, np.float64)
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
