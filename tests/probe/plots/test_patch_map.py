"""Numbers per patch: the square that they are, whatever comes before it."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ReportError
from probe.plots import patch_map


@given(side=st.integers(5, 16), special=st.integers(0, 4))
def test_patches_are_found_behind_special_tokens(side: int, special: int) -> None:
    """CLS and registers are left out; rows stay rows."""
    values = np.concatenate([np.full(special, 99.0), np.arange(side * side)])
    (trace,) = patch_map(xr.DataArray(values, dims=("token",))).data
    np.testing.assert_allclose(np.array(trace.z, float), np.arange(side * side).reshape(side, side))


def test_an_image_lies_below() -> None:
    """It spans the patches, and shows through."""
    figure = patch_map(xr.DataArray(np.arange(16.0), dims=("token",)), image="data:image/png;base64,AA")
    (image,) = figure.layout.images
    assert (image.sizex, image.sizey, image.layer) == (4, 4, "below")
    assert figure.data[0].opacity < 1


def test_other_numbers_are_refused() -> None:
    """No square, or more than one axis."""
    with pytest.raises(ReportError, match="no square"):
        patch_map(xr.DataArray(np.arange(46.0), dims=("token",)))
    with pytest.raises(ReportError, match="select one head"):
        patch_map(xr.DataArray(np.zeros((2, 16)), dims=("head", "token")))
