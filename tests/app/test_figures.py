"""Numbers of figures as tables, and names of files."""

import csv
import io

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from probe_app.figures import as_csv, file_name, values

from probe.plots import attention_image, head_map, head_scatter


def rows(figure: go.Figure) -> list[list[str]]:
    """A figure's table, as a spreadsheet reads it."""
    return list(csv.reader(io.StringIO(as_csv(figure.to_plotly_json()))))


def test_a_map_is_a_row_per_cell() -> None:
    """Values are exact, undefined ones empty."""
    data = xr.DataArray([[0.5, np.nan], [0.25, 1.0]], dims=("layer", "head"))
    table = rows(head_map(data))
    assert table[0] == ["y", "x", "value"]
    assert [row[2] for row in table[1:]] == ["0.5", "", "0.25", "1.0"]


def test_an_image_gives_probabilities_not_shades() -> None:
    """The colours are logarithms; the table is not."""
    data = xr.DataArray(np.array([[1.0, 0.0], [0.25, 0.75]]), dims=("query_pos", "key_pos"))
    assert [float(row[2]) for row in rows(attention_image(data))[1:]] == [1.0, 0.0, 0.25, 0.75]


def test_points_have_names() -> None:
    """The identity line is no data."""
    one = xr.DataArray([[0.5, 0.25]], dims=("layer", "head"))
    table = rows(head_scatter(one, one * 2))
    assert table == [["name", "x", "y"], ["L0.H0", "0.5", "1.0"], ["L0.H1", "0.25", "0.5"]]


def test_no_cell_is_a_formula() -> None:
    """A spreadsheet must not run what a report says."""
    figure = {"data": [{"type": "scatter", "x": [1], "y": [2], "customdata": ["=HYPERLINK(1)"]}]}
    assert "'=HYPERLINK" in as_csv(figure)


def test_numbers_as_bytes_are_read() -> None:
    """The browser sends arrays as base64."""
    figure = go.Figure(go.Scatter(x=np.array([1.5, 2.5]), y=np.array([1, 2])))
    sent = figure.to_plotly_json()["data"][0]["x"]
    assert values(sent) == [1.5, 2.5]


def test_file_names_are_plain() -> None:
    """Nothing of a title can be a path."""
    assert file_name({"layout": {"title": {"text": "../../<b>x</b>"}}}) == "b-x--b"
