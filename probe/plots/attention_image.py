"""Part of a pattern as a picture: queries down, keys across, a cell per pair of tokens or of blocks of tokens."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, colorscale, steady

_DARKEST = 1e-4  # probabilities below are drawn alike, so that the colours are left to what is attended
_MOST_LABELS = 28  # tokens that are written along an axis


def attention_image(
    data: xr.DataArray, *, tokens: Sequence[str] | None = None, title: str = "", log: bool = True
) -> go.Figure:
    """Draw a pattern or a tile of one, axes (query_pos, key_pos); the coordinates are the first token of each cell.

    Args:
        data: Probabilities, 0 to 1; of blocks, their means.
        tokens: The prompt's tokens, written along the axes where there are few cells, and on hover.
        title: Above the figure.
        log: Colour by the logarithm of the probability, cut at 1e-4.

    Raises:
        ReportError: the array has other axes.
    """
    if tuple(data.dims) != ("query_pos", "key_pos"):
        found = ", ".join(map(str, data.dims))
        raise ReportError(
            f"a pattern was asked; the array has axes ({found}): select one head, to leave (query_pos, key_pos)"
        )
    values = np.asarray(data.values, dtype=np.float64)
    queries, keys = (_firsts(data, axis) for axis in data.dims)
    shade = np.log10(np.maximum(values, _DARKEST)) if log else values
    heat = go.Heatmap(
        z=np.round(shade, 3).astype(np.float32),
        x=np.asarray(keys),
        y=np.asarray(queries),
        customdata=np.round(values, 6).astype(np.float32),
        meta="exact",  # what the colours show is in customdata
        zmin=np.log10(_DARKEST) if log else 0.0,
        zmax=0.0 if log else 1.0,
        colorscale=colorscale(),
        colorbar=_bar(log),
        hovertemplate="query %{y}, key %{x}<br>%{customdata:.4g}<extra></extra>",
    )
    across, down = _ticks(keys, tokens), _ticks(queries, tokens)
    layout = {
        "template": TEMPLATE,
        "title": {"text": escape(title)},
        "height": 560,
        "xaxis": {"title": {"text": "key"}, "constrain": "domain", **across},
        "yaxis": {"title": {"text": "query"}, "autorange": "reversed", **down},
        **({} if across or down else steady("probability")),
    }
    return go.Figure(heat, layout)


def _firsts(data: xr.DataArray, axis: object) -> list[int]:
    if axis in data.coords:
        return [int(token) for token in np.atleast_1d(data.coords[axis].values)]
    return list(range(data.sizes[axis]))


def _bar(log: bool) -> dict[str, object]:
    if not log:
        return {"title": {"text": "probability"}}
    return {
        "title": {"text": "probability"},
        "tickvals": [-4, -3, -2, -1, 0],
        "ticktext": ["≤ 1e-4", "1e-3", "0.01", "0.1", "1"],
    }


def _ticks(firsts: list[int], tokens: Sequence[str] | None) -> dict[str, object]:
    """Token strings where they can be read: each cell is one token, and there are few."""
    single = len(firsts) < 2 or firsts[1] - firsts[0] == 1
    if tokens is None or not single or len(firsts) > _MOST_LABELS:
        return {}
    texts = [escape(tokens[at].replace("\n", "⏎")) if at < len(tokens) else str(at) for at in firsts]
    return {"tickvals": firsts, "ticktext": texts, "tickfont": {"size": 10}}
