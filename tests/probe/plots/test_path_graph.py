"""Paths as a graph: receivers above senders, widths as the numbers, no more than were asked."""

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ReportError
from probe.plots import path_graph
from probe.plots.theme import signed

EDGES = [
    ("embedding", "L0.H1", 0.2), ("L0.H1", "L2.H0.q", 0.8), ("L0.H10", "L2.H0.v", -0.4), ("L2.H0", "L2.MLP", 0.1),
    ("L2.H0", "logits", 0.9),
]  # fmt: skip


def _edges(edges: list[tuple[str, str, float]]) -> xr.DataArray:
    coords = {
        "sender": ("edge", [one[0] for one in edges]),
        "receiver": ("edge", [one[1] for one in edges]),
    }
    return xr.DataArray(np.array([one[2] for one in edges], float), coords, ("edge",))


def _nodes(figure: go.Figure) -> dict[str, tuple[float, float]]:
    nodes = figure.data[-1]
    return {text: (x, y) for text, x, y in zip(nodes.text, nodes.x, nodes.y, strict=True)}


def test_layers_are_rows_from_the_embedding_to_the_logits() -> None:
    """A head is one node whatever of it receives; a row's nodes stand apart, in the order of their numbers."""
    figure = path_graph(_edges(EDGES))
    nodes = _nodes(figure)
    assert set(nodes) == {"embedding", "L0.H1", "L0.H10", "L2.H0", "L2.MLP", "logits"}
    rows = [nodes[name][1] for name in ("embedding", "L0.H1", "L2.H0", "logits")]
    assert rows == [0, 1, 2, 4]
    assert nodes["L2.MLP"][1] == 3
    assert nodes["L0.H1"][0] < nodes["L0.H10"][0]
    assert list(figure.layout.yaxis.ticktext) == ["in", "0", "2", "2 MLP", "out"]


def test_a_table_of_senders_and_receivers_is_the_same_graph() -> None:
    """Where no path leads the number is undefined, and nothing is drawn."""
    whole = {name for one in EDGES for name in one[:2]}
    ends = {"sender": sorted(whole), "receiver": sorted(whole)}
    table = xr.DataArray(np.full((len(whole), len(whole)), np.nan), ends, ("sender", "receiver"))
    for sender, receiver, score in EDGES:
        table.loc[{"sender": sender, "receiver": receiver}] = score
    assert path_graph(table).to_dict() == path_graph(_edges(EDGES)).to_dict()


def test_lines_join_their_ends_and_are_as_wide_as_their_numbers() -> None:
    """The strongest is drawn last, above the others; its sign has its colour; hovering says what receives."""
    figure = path_graph(_edges(EDGES), unit="share")
    nodes = _nodes(figure)
    lines, middles = figure.data[:-2], figure.data[-2]
    strongest = sorted(EDGES, key=lambda one: abs(one[2]))
    for line, (sender, receiver, score) in zip(lines, strongest, strict=True):
        ends = (nodes[sender], nodes[receiver.removesuffix(".q").removesuffix(".v")])
        assert (line.x[0], line.y[0]) == ends[0]
        assert (line.x[1], line.y[1]) == ends[1]
        assert line.y[0] < line.y[1]
        assert line.line.color == signed(score)
    widths = [line.line.width for line in lines]
    assert widths[-1] / widths[-2] == pytest.approx(0.9 / 0.8)
    assert "L0.H1 → L2.H0.q: 0.8 share" in middles.customdata


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.integers(1, 15))
def test_no_more_than_were_asked(scores: list[float], most: int) -> None:
    """The largest are kept, and no node without a path is drawn."""
    figure = path_graph(_edges([(f"L0.H{n}", "logits", one) for n, one in enumerate(scores)]), most=most)
    drawn = min(most, len(scores))
    assert len(figure.data) == drawn + 2
    assert len(_nodes(figure)) == drawn + 1
    kept = {name for name in _nodes(figure) if name != "logits"}
    left = [abs(one) for n, one in enumerate(scores) if f"L0.H{n}" not in kept]
    assert max(left, default=0) <= min(abs(scores[int(name[4:])]) for name in kept)


def test_what_is_no_graph_is_refused() -> None:
    """Another form, nothing defined, nothing asked; names are text."""
    with pytest.raises(ReportError, match="one number per edge"):
        path_graph(xr.DataArray(np.zeros((2, 2)), dims=("layer", "head")))
    with pytest.raises(ReportError, match="no path has a defined number"):
        path_graph(_edges([("L0.H0", "logits", np.nan)]))
    with pytest.raises(ReportError, match="at least 1"):
        path_graph(_edges(EDGES), most=0)
    assert "&lt;b&gt;" in _nodes(path_graph(_edges([("<b>", "logits", 0.0)])))
