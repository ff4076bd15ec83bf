"""Two head maps against each other: differences, points, and maps that cannot be compared."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_reports import made_map

from probe.errors import ReportError
from probe.plots import difference_map, head_scatter

GRIDS = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=2)


@given(GRIDS, GRIDS)
def test_difference_is_second_minus_first_on_a_symmetric_scale(
    one: list[list[float]], two: list[list[float]]
) -> None:
    """The middle of the colours is zero, and both ends are as far from it."""
    (trace,) = difference_map(made_map(one), made_map(two)).data
    np.testing.assert_allclose(np.array(trace.z, float), np.array(two) - np.array(one))
    assert trace.zmid == 0
    assert trace.zmin == -trace.zmax < 0


def test_other_heads_cannot_be_compared() -> None:
    """Maps of models of another shape are refused, and the shapes are named."""
    with pytest.raises(ReportError, match="'layer': 2, 'head': 3"):
        difference_map(made_map(np.zeros((2, 3))), made_map(np.zeros((2, 4))))


def test_points_are_the_heads_that_both_define() -> None:
    """Undefined heads are left out; the identity line spans all points."""
    line, points = head_scatter(
        made_map([[0.1, np.nan], [0.3, 0.4]]), made_map([[0.5, 0.6], [np.nan, 0.8]])
    ).data
    assert list(points.customdata) == ["L0.H0", "L1.H1"]
    assert list(points.x) == [0.1, 0.4]
    assert list(points.y) == [0.5, 0.8]
    assert list(line.x) == list(line.y) == [0.1, 0.8]


def test_nothing_in_common_is_told() -> None:
    """A scatter without points is refused."""
    empty = made_map(np.full((2, 3), np.nan))
    with pytest.raises(ReportError, match="no head has a value in both"):
        head_scatter(empty, empty)


def test_names_are_text() -> None:
    """Names of reports are not markup."""
    one = xr.DataArray([[0.5]], dims=("layer", "head"))
    figure = head_scatter(one, one, names=("<b>a</b>", "b"))
    assert figure.layout.xaxis.title.text == "&lt;b&gt;a&lt;/b&gt;"
