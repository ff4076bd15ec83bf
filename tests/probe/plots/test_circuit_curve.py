"""Curves over the size of a circuit: what was measured, and the band of random circuits."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ReportError
from probe.plots import circuit_curve

SIZES = [1, 2, 4]


def _draws(values: object) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, float), {"size": SIZES}, ("draw", "size"))


def test_each_curve_is_named_and_lies_over_its_sizes() -> None:
    """Undefined values are gaps."""
    curves = xr.DataArray(
        [[0.1, np.nan, 0.9], [0.9, 0.5, 0.2]],
        {"curve": ["faithfulness", "<i>"], "size": SIZES},
        ("curve", "size"),
    )
    first, second = circuit_curve(curves, unit="share").data
    assert list(first.x) == SIZES
    assert list(first.y) == [0.1, None, 0.9]
    assert (first.name, second.name) == ("faithfulness", "&lt;i&gt;")
    assert (first.line.color, first.line.dash) != (second.line.color, second.line.dash)


@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_band_holds_every_draw(values: list[list[float]]) -> None:
    """From the lowest to the highest, with the mean inside, behind the curve."""
    figure = circuit_curve(xr.DataArray([0.0, 0.5, 1.0], {"size": SIZES}, ("size",)), random=_draws(values))
    low, high, mean, curve = figure.data
    np.testing.assert_allclose(low.y, np.min(values, axis=0))
    np.testing.assert_allclose(high.y, np.max(values, axis=0))
    np.testing.assert_allclose(mean.y, np.mean(values, axis=0), atol=1e-12)
    assert high.fill == "tonexty"
    assert list(curve.y) == [0.0, 0.5, 1.0]


def test_sizes_without_a_draw_have_no_band() -> None:
    """A size at which no draw is defined is left out; draws that are not defined do not count."""
    figure = circuit_curve(
        xr.DataArray([0.0, 0.5, 1.0], {"size": SIZES}, ("size",)),
        random=_draws([[0.1, np.nan, 0.3], [np.nan, np.nan, 0.5]]),
    )
    low, high, *_ = figure.data
    assert (list(low.x), list(low.y), list(high.y)) == ([1, 4], [0.1, 0.3], [0.1, 0.5])


def test_other_axes_are_refused() -> None:
    """Of the curves and of the draws."""
    with pytest.raises(ReportError, match=r"\('layer',\)"):
        circuit_curve(xr.DataArray([1.0], dims=("layer",)))
    one = xr.DataArray([1.0], dims=("size",))
    with pytest.raises(ReportError, match="one draw"):
        circuit_curve(one, random=one)
    with pytest.raises(ReportError, match="select"):
        circuit_curve(one, random=xr.DataArray(np.ones((1, 1, 1)), dims=("a", "b", "size")))
    with pytest.raises(ReportError, match="bounds low and high"):
        circuit_curve(one, interval=one)


def test_the_first_curve_has_its_interval() -> None:
    """Whiskers end at the bounds; axes may come in either order."""
    curves = xr.DataArray(
        [[0.2, 0.9], [0.5, 0.4], [0.8, 0.1]],
        {"size": SIZES, "kind": ["faithfulness", "completeness"]},
        ("size", "kind"),
    )
    bounds = xr.DataArray(
        [[0.1, 0.4], [0.3, 0.6], [0.7, 0.8]], {"size": SIZES, "bound": ["low", "high"]}, ("size", "bound")
    )
    first, second = circuit_curve(curves, interval=bounds).data
    np.testing.assert_allclose(np.array(first.y) + first.error_y.array, [0.4, 0.6, 0.8])
    np.testing.assert_allclose(np.array(first.y) - first.error_y.arrayminus, [0.1, 0.3, 0.7])
    assert second.error_y.array is None
    assert list(second.y) == [0.9, 0.4, 0.1]
