"""Numbers by layer and position: every cell is where it belongs, zero is the middle of the colours."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ReportError
from probe.plots import position_map


def _data(values: object, places: list[str], layers: list[int]) -> xr.DataArray:
    return xr.DataArray(
        np.asarray(values, float), {"layer": layers, "position": places}, ("layer", "position"), name="relp"
    )


@given(
    values=st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=2, max_size=2),
)
def test_cells_are_the_numbers_on_a_symmetric_scale(values: list[list[float]]) -> None:
    """Rows are layers by their own numbers, columns positions."""
    figure = position_map(_data(values, ["0:a", "1:b", "2:a"], [4, 9]), unit="share")
    (trace,) = figure.data
    np.testing.assert_array_equal(np.array(trace.z, float), np.array(values))
    assert list(trace.y) == ["4", "9"]
    assert trace.zmid == 0
    assert trace.zmin == -trace.zmax < 0
    assert trace.zmax == (np.abs(values).max() or 1.0)
    assert figure.layout.yaxis.autorange == "reversed"


def test_the_same_token_twice_keeps_two_columns() -> None:
    """Positions are told apart by number; their texts are text."""
    figure = position_map(_data([[1, 2, 3]], ["<b>", "x", "<b>"], [0]))
    (trace,) = figure.data
    assert len(set(trace.x)) == 3
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;", "x", "&lt;b&gt;"]
    assert trace.customdata[0][0] == "layer 0, &lt;b&gt;"


def test_undefined_cells_are_empty() -> None:
    """And count nothing for the scale; a map of nothing is drawn all the same."""
    (trace,) = position_map(_data([[np.nan, -0.5]], ["a", "b"], [0])).data
    assert trace.z[0][0] is None
    assert trace.zmax == 0.5
    (nothing,) = position_map(_data([[np.nan, np.nan]], ["a", "b"], [0])).data
    assert (nothing.zmin, nothing.zmax) == (-1, 1)


def test_heads_of_one_layer_by_position() -> None:
    """A layer may be selected; more axes are refused."""
    data = xr.DataArray(np.ones((2, 3, 4)), dims=("layer", "head", "position"))
    figure = position_map(data.isel(layer=1))
    assert figure.layout.yaxis.title.text == "head"
    with pytest.raises(ReportError, match=r"\(layer, head, position\)"):
        position_map(data)
    with pytest.raises(ReportError, match="select"):
        position_map(data.isel(position=0))
