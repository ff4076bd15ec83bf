"""A pattern as a picture: values on hover, tokens along the axes where they can be read."""

import numpy as np
import pytest
import xarray as xr

from probe.errors import ReportError
from probe.plots import attention_image


def pattern(rows: int, first: int = 0, step: int = 1) -> xr.DataArray:
    """A causal uniform pattern whose cells begin at some token."""
    values = np.tril(np.ones((rows, rows)))
    values /= values.sum(1, keepdims=True)
    at = first + step * np.arange(rows)
    return xr.DataArray(values, {"query_pos": at, "key_pos": at}, ("query_pos", "key_pos"))


def test_colours_are_logarithms_and_hover_says_probabilities() -> None:
    """Down to 1e-4; what is below is drawn alike."""
    (trace,) = attention_image(pattern(4)).data
    np.testing.assert_allclose(np.array(trace.customdata), pattern(4).values, atol=1e-6)
    np.testing.assert_allclose(np.array(trace.z)[0], [0, -4, -4, -4])
    (plain,) = attention_image(pattern(4), log=False).data
    np.testing.assert_allclose(np.array(plain.z), pattern(4).values, atol=1e-3)


def test_tokens_are_written_where_cells_are_tokens_and_few() -> None:
    """Not for blocks, and not for many."""
    tokens = [f"<{number}>" for number in range(400)]
    shown = attention_image(pattern(3, first=7), tokens=tokens).layout.xaxis
    assert list(shown.ticktext) == ["&lt;7&gt;", "&lt;8&gt;", "&lt;9&gt;"]
    assert attention_image(pattern(3, step=4), tokens=tokens).layout.xaxis.ticktext is None
    assert attention_image(pattern(100), tokens=tokens).layout.xaxis.ticktext is None


def test_other_arrays_are_refused() -> None:
    """By their axes."""
    with pytest.raises(ReportError, match="select one head"):
        attention_image(xr.DataArray(np.zeros((2, 2, 2)), dims=("head", "query_pos", "key_pos")))
