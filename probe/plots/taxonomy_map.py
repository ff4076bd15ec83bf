"""The map of a head taxonomy as a picture: a dot per head, coloured by cluster."""

from html import escape

import plotly.graph_objects as go

from probe.plots.theme import PAPER, TEMPLATE
from probe.report.ramp import rgb
from probe.report.taxonomy import Taxonomy

_SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "cross",
    "triangle-up",
    "x",
    "star",
    "pentagon",
    "hexagon",
    "bowtie",
)


def taxonomy_map(
    found: Taxonomy, *, near: str | None = None, n: int = 5, title: str | None = None
) -> go.Figure:
    """Draw every head at its two principal components, named on hover; clusters differ in colour and in mark.

    Args:
        found: What `probe.taxonomy` gave.
        near: Also ring this head and the `n` heads nearest to it in the whole profile.
        n: How many of them.
        title: Above the figure.

    Raises:
        UnknownNameError: no such head.
    """
    figure = go.Figure()
    frame = found.frame()
    for cluster in range(found.clusters.count):
        inside = frame[frame["cluster"] == cluster]
        marks = ", ".join(f"{name} {value:+.1f}" for name, value in found.marks(cluster, 2))
        red, green, blue = rgb(cluster / max(1, found.clusters.count - 1))
        figure.add_scatter(
            x=inside["x"].tolist(),
            y=inside["y"].tolist(),
            mode="markers",
            name=escape(f"{cluster}: {len(inside)} heads, {marks}"),
            customdata=[escape(head) for head in inside["head"]],
            hovertemplate="%{customdata}<extra></extra>",
            marker={
                "size": 8,
                "symbol": _SYMBOLS[cluster % len(_SYMBOLS)],
                "color": f"rgb({red},{green},{blue})",
                "line": {"width": 0.5, "color": PAPER},
            },
        )
    if near is not None:
        ringed = [near, *found.near(near, n)["head"]]
        rows = frame.set_index("head").loc[ringed]
        figure.add_scatter(
            x=rows["x"].tolist(),
            y=rows["y"].tolist(),
            mode="markers+text",
            name=escape(f"{near} and its {len(ringed) - 1} nearest"),
            text=[escape(head) for head in ringed],
            textposition="top center",
            marker={"size": 15, "symbol": "circle-open", "color": "rgb(200,60,40)", "line": {"width": 2}},
        )
    shares = [
        f"component {i} ({share:.0%} of the variance)" for i, share in enumerate(found.explained.values, 1)
    ]
    figure.update_layout(
        template=TEMPLATE,
        title={"text": escape(title or "")},
        plot_bgcolor=PAPER,
        height=560,
        xaxis={"title": {"text": shares[0]}},
        yaxis={"title": {"text": shares[1]}},
        legend={"title": {"text": "cluster"}},
    )
    return figure
