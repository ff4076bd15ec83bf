"""Paths as a graph: senders below, receivers above, a line per path, its width what goes along it."""

import re
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import INK, PAPER, TEMPLATE, signed

_LAYER = re.compile(r"(?:^|\.)L(\d+)\b")
_PART = re.compile(r"\.(?:q|k|v)$")  # of a head that receives
_PIXELS, _TALLEST = 46, 1400  # of a layer
_WIDEST = 8.0  # pixels of the strongest path

Edge = tuple[str, str, float]  # sender, receiver, score
Place = tuple[float, int]  # across, and the layer's row


def path_graph(edges: xr.DataArray, *, most: int = 40, title: str = "", unit: str = "") -> go.Figure:
    """Draw the strongest paths between heads, by layer from the embedding at the bottom to the logits at the top.

    A name with ``L4`` in it stands in layer 4 (``L4.H2``, ``L4.H2.q``), an MLP (``L4.MLP``) above the heads of its
    layer; ``embedding`` before all, ``logits`` behind all. Queries, keys and values of a head are one node; hovering
    over a path says which it reaches.

    Args:
        edges: ``extra["edges"]`` of path patching, axis (edge,) with coordinates ``sender`` and ``receiver``; or of
            edge attribution, axes (sender, receiver), undefined where there is no path.
        most: The strongest so many paths are drawn, whatever their sign.
        title: Above the figure.
        unit: Of the numbers, written on hover.

    Raises:
        ReportError: another form, or no path with a defined number.
    """
    found = _strongest(edges, most)
    places = _places(sorted({_node(name) for sender, receiver, _ in found for name in (sender, receiver)}))
    largest = max(abs(score) for *_, score in found) or 1.0
    figure = go.Figure([_line(one, places, largest) for one in reversed(found)])
    figure.add_trace(_middles(found, places, unit))
    figure.add_trace(_nodes(places))
    rows = sorted({(row, _layer(name)) for name, (_, row) in places.items()})
    figure.update_layout(
        template=TEMPLATE,
        title={"text": escape(title)},
        showlegend=False,
        plot_bgcolor=PAPER,
        height=min(_TALLEST, 140 + _PIXELS * len(rows)),
        xaxis={"visible": False, "range": [-0.08, 1.08]},
        yaxis={
            "title": {"text": "layer"},
            "tickvals": [row for row, _ in rows],
            "ticktext": [_row_name(layer) for _, layer in rows],
        },
    )
    return figure


def _strongest(edges: xr.DataArray, most: int) -> list[Edge]:
    if edges.dims not in (("edge",), ("sender", "receiver")) or not {"sender", "receiver"} <= set(
        edges.coords
    ):
        raise ReportError(
            f"a graph of paths was asked; the array has axes {tuple(edges.dims)}: give one number per edge, with "
            "coordinates sender and receiver"
        )
    if edges.ndim == 2:
        edges = edges.stack(edge=("sender", "receiver"))
    if most < 1:
        raise ReportError(f"the {most} strongest paths were asked; ask for at least 1")
    names = (edges.coords[end].values.tolist() for end in ("sender", "receiver"))
    whole = zip(*names, np.asarray(edges.values, np.float64).tolist(), strict=True)
    defined = [(str(one), str(other), score) for one, other, score in whole if np.isfinite(score)]
    if not defined:
        raise ReportError("a graph of paths was asked; no path has a defined number: ask for other receivers")
    return sorted(defined, key=lambda edge: -abs(edge[2]))[:most]


def _node(name: str) -> str:
    return _PART.sub("", name)


def _layer(name: str) -> float:
    """Which layer a node stands in; the logits behind all of them, anything without a layer before."""
    found = _LAYER.search(name)
    if found is not None:
        # An MLP reads what the heads of its layer write.
        return int(found[1]) + (0.5 if name.lower().endswith(".mlp") else 0.0)
    return np.inf if name.startswith("logit") else -1


def _places(names: Sequence[str]) -> dict[str, Place]:
    """Where each node stands: only the layers that occur have a row, the nodes of a row spread evenly."""
    layers = sorted({_layer(name) for name in names})
    made: dict[str, Place] = {}
    for row, layer in enumerate(layers):
        inside = sorted((name for name in names if _layer(name) == layer), key=_natural)
        for number, name in enumerate(inside):
            made[name] = ((number + 1) / (len(inside) + 1), row)
    return made


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _row_name(layer: float) -> str:
    if np.isinf(layer) or layer < 0:
        return "out" if layer > 0 else "in"
    return f"{int(layer)} MLP" if layer % 1 else str(int(layer))


def _line(edge: Edge, places: dict[str, Place], largest: float) -> go.Scatter:
    sender, receiver, score = edge
    (x, y), (to_x, to_y) = places[_node(sender)], places[_node(receiver)]
    return go.Scatter(
        x=[x, to_x],
        y=[y, to_y],
        mode="lines",
        line={"color": signed(score), "width": max(0.5, _WIDEST * abs(score) / largest)},
        opacity=0.7,
        hoverinfo="skip",
    )


def _middles(edges: list[Edge], places: dict[str, Place], unit: str) -> go.Scatter:
    """Points to hover over: a line itself has none between its ends."""
    ends = [(places[_node(sender)], places[_node(receiver)]) for sender, receiver, _ in edges]
    return go.Scatter(
        x=[(x + to_x) / 2 for (x, _), (to_x, _) in ends],
        y=[(y + to_y) / 2 for (_, y), (_, to_y) in ends],
        mode="markers",
        marker={"size": 9, "color": [signed(score) for *_, score in edges], "opacity": 0.4},
        customdata=[
            escape(f"{sender} → {receiver}: {score:.4g} {unit}".strip()) for sender, receiver, score in edges
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _nodes(places: dict[str, Place]) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in places.values()],
        y=[y for _, y in places.values()],
        mode="markers+text",
        marker={"size": 12, "color": PAPER, "line": {"color": INK, "width": 1.5}},
        text=[escape(name) for name in places],
        textposition="top center",
        hovertemplate="%{text}<extra></extra>",
    )
