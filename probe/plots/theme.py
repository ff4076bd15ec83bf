"""How every figure looks: one template, one colour scale (cividis) and one with two ends, safe for colour blindness."""

from typing import Any

import plotly.colors
import plotly.graph_objects as go

from probe.report.ramp import UNDEFINED, stops

INK, PAPER = "#22272e", "#ffffff"
_LONGEST_TITLE = 12  # characters of a colour bar's title
_IN_PLACE = {"automargin": False, "ticklabeloverflow": "allow"}  # tick labels that have room are not measured

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": "rgb({},{},{})".format(*UNDEFINED),  # shows where a value is undefined
        "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
        "xaxis": {"showgrid": False, "zeroline": False, "ticks": "outside", "automargin": True},
        "yaxis": {"showgrid": False, "zeroline": False, "ticks": "outside", "automargin": True},
    },
    # Labels at a colour bar always have room; to see whether they have costs a tenth of drawing.
    data={"heatmap": [{"colorbar": {"ticklabeloverflow": "allow"}}]},
)


def colorscale() -> list[list[float | str]]:
    """The colour scale as plotly takes it, 0 dark to 1 bright."""
    return [[place, color] for place, color in stops()]


def diverging() -> list[list[float | str]]:
    """Two colours that part at zero, blue below and red above, safe for colour-blind readers."""
    scale: list[list[float | str]] = plotly.colors.get_colorscale("balance")
    return scale


def signed(value: float) -> str:
    """The one of those two colours that a bar or a line has: red for 0 and above, blue below.

    >>> signed(-0.1), signed(0.1)
    ('rgb(11, 102, 189)', 'rgb(172, 43, 36)')
    """
    return "rgb(172, 43, 36)" if value >= 0 else "rgb(11, 102, 189)"


def steady(bar: str) -> dict[str, Any]:
    """Margins with room for short tick labels and a colour bar titled `bar`, as parts of a layout.

    Plotly otherwise draws a figure twice, the second time with the margins that the first asked for. Where the title is
    too long for the room, that is what it does.
    """
    if len(bar) > _LONGEST_TITLE:
        return {}
    margin = {"l": 56, "r": 104, "t": 48, "b": 48, "autoexpand": False}
    room = {f"{axis}_{name}": value for axis in ("xaxis", "yaxis") for name, value in _IN_PLACE.items()}
    return {"margin": margin, **room}
