"""Needle tests as a picture."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from made_reports import made_answer

from probe.errors import ReportError
from probe.plots import retrieval_grid
from probe.report import Answer


@pytest.fixture
def answer() -> Answer:
    """Two lengths by three depths; no test of the longer length counts at depth 0.9."""

    def grid(values: object) -> xr.DataArray:
        coords = {"length": [500, 1000], "depth": [0.1, 0.5, 0.9]}
        return xr.DataArray(np.array(values), coords, ("length", "depth"))

    extra = {
        "gate": grid([[1.0, 0.5, 1.0], [1.0, 1.0, 0.0]]),
        "top_head": grid([[0.9, 0.8, 0.7], [0.6, 0.5, np.nan]]),
    }
    return replace(made_answer("retrieval:depths=<0.1>"), extra=extra)


def test_every_cell_is_where_it_belongs(answer: Answer) -> None:
    """Lengths across, depths down, both scales from 0 to 1; a cell without a counted test is a gap."""
    gate, top = retrieval_grid(answer).data
    assert [list(row) for row in gate.z] == [[1.0, 1.0], [0.5, 1.0], [1.0, 0.0]]
    assert [list(row) for row in top.z] == [[0.9, 0.6], [0.8, 0.5], [0.7, None]]
    assert (list(top.x), list(top.y)) == (["500", "1000"], ["0.1", "0.5", "0.9"])
    assert [(one.zmin, one.zmax, one.showscale) for one in (gate, top)] == [(0, 1, False), (0, 1, True)]


def test_axes_are_named_and_the_title_is_safe(answer: Answer) -> None:
    """The front of the haystack is at the top; the spec is the title unless another is given."""
    figure = retrieval_grid(answer)
    assert [axis.autorange for axis in figure.select_yaxes()] == ["reversed", "reversed"]
    assert [axis.title.text for axis in figure.select_yaxes()] == ["depth", "depth"]
    assert figure.layout.title.text == "retrieval:depths=&lt;0.1&gt;"
    assert retrieval_grid(answer, title="needles").layout.title.text == "needles"


@pytest.mark.parametrize("depths", [1, 3, 60])
def test_no_titles_are_side_by_side(answer: Answer, depths: int) -> None:
    """However narrow the figure is: panels of its whole width, apart by a line of text, lengths named once, below."""
    at = np.resize([0, 1, 2], depths)
    figure = retrieval_grid(replace(answer, extra={name: grid[:, at] for name, grid in answer.extra.items()}))
    assert {axis.domain for axis in figure.select_xaxes()} == {(0.0, 1.0)}
    assert [axis.title.text for axis in figure.select_xaxes()] == [None, "length (tokens)"]
    assert figure.layout.xaxis.matches == "x2"
    assert [(one.text, one.x) for one in figure.layout.annotations] == [
        ("tests passed", 0.5),
        ("copied by the best head", 0.5),
    ]
    (low, high), margin = (
        (figure.layout.yaxis.domain[0], figure.layout.yaxis2.domain[1]),
        figure.layout.margin,
    )
    drawn = figure.layout.height - margin.t - figure.layout.template.layout.margin.b
    assert (low - high) * drawn >= 24
    assert low - high < 0.5


def test_an_answer_without_tests_is_refused(answer: Answer) -> None:
    """An answer of a metric, or one without a grid, is refused by what it lacks."""
    with pytest.raises(ReportError, match="no gate and no top_head"):
        retrieval_grid(made_answer("entropy"))
    with pytest.raises(ReportError, match="no top_head"):
        retrieval_grid(replace(answer, extra={"gate": answer.extra["gate"]}))
