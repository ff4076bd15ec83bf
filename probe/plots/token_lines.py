"""Numbers along the tokens of a text as lines."""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE

_MOST_LABELS = 48  # tokens that are written below the axis
# Okabe and Ito's colours, told apart by every kind of colour vision.
_COLORS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def token_lines(
    values: Mapping[str, Sequence[float | None]], tokens: Sequence[str], *, unit: str = "", title: str = ""
) -> go.Figure:
    """Draw one line per name over the tokens; undefined values (None, NaN) leave gaps.

    Args:
        values: By name, a number per token.
        tokens: The tokens, written below the axis where there are few, and on hover.
        unit: Of the values.
        title: Above the figure.

    Raises:
        ReportError: a line has another length than the text.
    """
    for name, line in values.items():
        if len(line) != len(tokens):
            raise ReportError(
                f"a line {name!r} of {len(line)} numbers was asked over {len(tokens)} tokens; give one each"
            )
    shown = [escape(token.replace("\n", "⏎")) for token in tokens]
    lines = [
        go.Scatter(
            x=list(range(len(tokens))), y=list(line), mode="lines+markers", name=escape(name),
            customdata=shown, line={"color": _COLORS[at % len(_COLORS)], "width": 1.5}, marker={"size": 4},
            hovertemplate="%{customdata}: %{y:.4g}<extra>%{fullData.name}</extra>",
        )
        for at, (name, line) in enumerate(values.items())
    ]  # fmt: skip
    ticks = {"tickvals": list(range(len(tokens))), "ticktext": shown, "tickangle": -60}
    layout = {
        "template": TEMPLATE,
        "title": {"text": escape(title)},
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {"title": {"text": "token"}, **(ticks if len(tokens) <= _MOST_LABELS else {})},
        "yaxis": {"title": {"text": escape(unit)}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.35},
    }
    return go.Figure(lines, layout)
