"""How every figure looks: one template and one colour scale (cividis, safe for colour-blind readers)."""

import plotly.graph_objects as go

from probe.report.ramp import UNDEFINED, stops

INK, PAPER = "#22272e", "#ffffff"

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
