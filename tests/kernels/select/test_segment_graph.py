"""Segments keep their own keys and those of segments that they have an edge to."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels.select import make, segment_graph
from selecting import make_call

N = 24


@st.composite
def graphs(draw: st.DrawFn) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Segments that may overlap, and edges between them."""
    ends = st.tuples(st.integers(0, N), st.integers(1, 9)).map(lambda one: (one[0], one[0] + one[1]))
    segments = draw(st.lists(ends, min_size=2, max_size=5, unique=True))
    return {one: draw(st.lists(st.sampled_from(segments), max_size=3)) for one in segments}


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_the_graph_says_who_keeps_whom(edges: dict[tuple[int, int], list[tuple[int, int]]]) -> None:
    """Token by token: outsiders keep and are kept by all, members what any of their segments keeps."""
    wanted = torch.ones(N, N, dtype=torch.bool)
    for i, j in itertools.product(range(N), range(N)):
        mine = [one for one in edges if one[0] <= i < one[1]]
        theirs = [one for one in edges if one[0] <= j < one[1]]
        if mine and theirs:
            wanted[i, j] = any(b == a or b in edges[a] for a in mine for b in theirs)
    pattern = segment_graph(edges)
    assert torch.equal(make_call(N, group=1, mask=()).kept(pattern)[0, 0], wanted)
    assert torch.equal(make_call(N, group=1).kept(pattern)[0, 0], wanted.tril())
    again = make_call(N, group=1).kept(make(pattern.name))[0, 0]
    assert torch.equal(again, wanted.tril())


def test_names_stand_for_spans() -> None:
    """As they do in text."""
    spans = {"a": (0, 4), "b": (4, 9)}
    assert segment_graph("b>a+a", spans) == segment_graph({(4, 9): [(0, 4)], "a": []}, spans)
    assert segment_graph("b>a", spans) == make("segment_graph:edges=4..9>0..4")


@pytest.mark.parametrize(
    ("edges", "match"),
    [
        ("0..4", "two segments"),
        ("0..4>4..4", r"4\.\.4"),
        ("0..4>4..8>8..9", "joined by"),
        ("0..4>tail", "'tail'"),
    ],
)
def test_edges_that_cannot_be_are_refused(edges: str, match: str) -> None:
    """With what was asked."""
    with pytest.raises(ValueError, match=match):
        segment_graph(edges)
