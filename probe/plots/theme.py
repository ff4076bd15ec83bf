"""How every figure looks: one template and one colour scale (cividis, safe for colour-blind readers)."""

from typing import Any

import plotly.graph_objects as go

from probe.report.ramp import UNDEFINED, stops

INK, PAPER = "#22272e", "#ffffff"
_LONGEST_TITLE = 12  # characters of a colour bar's title

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": "rgb({},{},{})".format(*UNDEFINED),  # shows where a value is undefined
        "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
        "xaxis": {"showgrid": False, "zeroline": False, "ticks": "outside", "automargin": True},
        "yaxis": {"showgrid": False, "zeroline": False, "ticks": "outside", "automargin": True},
    }
)


def colorscale() -> list[list[float | str]]:
    """The colour scale as plotly takes it, 0 dark to 1 bright."""
    return [[place, color] for place, color in stops()]


def steady(bar: str) -> dict[str, Any]:
    """Margins with room for short tick labels and a colour bar titled `bar`, as parts of a layout.

    Plotly otherwise draws a figure twice, the second time with the margins that the first asked for. Where the title is
    too long for the room, that is what it does.
    """
    if len(bar) > _LONGEST_TITLE:
        return {}
    margin = {"l": 56, "r": 104, "t": 48, "b": 48, "autoexpand": False}
    return {"margin": margin, "xaxis_automargin": False, "yaxis_automargin": False}
