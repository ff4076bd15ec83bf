"""Bars of heads: largest size first, each with the interval that the report gives."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_reports import made_answer, made_map

from probe.errors import ReportError
from probe.plots import ranked_heads
from probe.plots.theme import signed
from probe.report.intervals import bootstrap


def _prompts(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(
        values, {"layer": [0, 1], "head": [0, 1, 2]}, ("prompt", "layer", "head")
    ).assign_coords(prompt=range(len(values)))


@given(st.lists(st.floats(-5, 5, width=16), min_size=6, max_size=6), st.integers(1, 8))
def test_the_largest_come_first_whatever_their_sign(values: list[float], n: int) -> None:
    """All of them where more are asked; no head twice; colour says the sign."""
    answer = made_answer(head_map=made_map(np.array(values).reshape(2, 3)))
    figure = ranked_heads(answer, n=n)
    (bars,) = figure.data
    sizes = np.abs(bars.x)
    assert len(set(bars.y)) == min(n, 6)
    assert (np.diff(sizes) <= 0).all()
    np.testing.assert_allclose(sizes, np.sort(np.abs(values))[::-1][:n])
    assert list(bars.marker.color) == [signed(x) for x in bars.x]
    assert bars.error_x.array is None


def test_bars_have_the_interval_over_prompts() -> None:
    """Ends of the whiskers are the bootstrap's bounds."""
    values = np.random.default_rng(0).normal(size=(5, 2, 3))
    answer = made_answer(head_map=made_map(values.mean(0)), by_prompt=_prompts(values))
    (bars,) = ranked_heads(answer, n=2, level=0.9).data
    bounds = bootstrap(answer, 0.9)
    for name, x, above, below in zip(
        bars.y, bars.x, bars.error_x.array, bars.error_x.arrayminus, strict=True
    ):
        layer, head = (int(part[1:]) for part in name.split("."))
        low, high = bounds.sel(layer=layer, head=head).values
        assert (x - below, x + above) == pytest.approx((low, high))
        assert above + below > 0


def test_layers_and_undefined_heads() -> None:
    """A layer is called by its number; what is not defined has no bar."""
    layers = xr.DataArray([0.5, np.nan, -2.0], {"layer": [3, 4, 5]}, ("layer",))
    (bars,) = ranked_heads(made_answer(head_map=layers)).data
    assert list(bars.y) == ["L5", "L3"]
    with pytest.raises(ReportError, match="none has a defined value"):
        ranked_heads(made_answer(head_map=made_map([[np.nan]])))
    with pytest.raises(ReportError, match="none has a defined value"):
        ranked_heads(made_answer(head_map=xr.DataArray(0.5)))
    with pytest.raises(ReportError, match="at least 1"):
        ranked_heads(made_answer(), n=0)
