"""The difference of two head maps as a picture: one colour where the second is higher, another where it is lower."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.head_map import head_map
from probe.plots.theme import diverging
from probe.report.ranking import cells


def difference(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """`other` minus `one`, head by head; raises `ReportError` where they are not of the same heads."""
    if one.dims != other.dims or [c[:2] for c in cells(one)] != [c[:2] for c in cells(other)]:
        raise ReportError(
            f"a difference was asked; the maps are of {dict(one.sizes)} and {dict(other.sizes)}: compare reports of "
            "models with the same layers and heads"
        )
    return other.copy(data=np.asarray(other.values, np.float64) - np.asarray(one.values, np.float64))


def difference_map(
    one: xr.DataArray, other: xr.DataArray, *, title: str = "", unit: str = "", tower: str = "decoder"
) -> go.Figure:
    """Draw `other` minus `one`, on a diverging scale that is symmetric about zero and safe for colour blindness.

    Raises:
        ReportError: the maps are not of the same heads.
    """
    delta = difference(one, other)
    figure = head_map(delta, title=title, unit=unit, tower=tower)
    finite = np.abs(delta.values[np.isfinite(delta.values)])
    most = float(finite.max()) if finite.size else 1.0
    figure.update_traces(colorscale=diverging(), zmid=0.0, zmin=-most or -1.0, zmax=most or 1.0)
    return figure
