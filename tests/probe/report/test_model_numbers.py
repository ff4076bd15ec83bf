"""A head map without axes: one number of the whole model, wherever a report is read."""

import io
import json
import math
from pathlib import Path

import numpy as np
import xarray as xr
from made_reports import made_answer, made_map, made_report
from rich.console import Console

from probe.cli.view import show_report
from probe.plots import head_map
from probe.report import Report, open_report
from probe.report.json_form import head_map_json
from probe.report.ranking import cells, grid, head_axis, head_counts, head_name, top_heads


def one_number(value: float = 0.25) -> Report:
    by_prompt = xr.DataArray(
        [value - 0.1, value + 0.1], {"prompt": ["a", "b"], "weight": ("prompt", [1.0, 3.0])}, ("prompt",)
    )
    return made_report(made_answer("slice", xr.DataArray(value), by_prompt=by_prompt), made_answer("entropy"))


def shown(report: Report) -> str:
    out = io.StringIO()
    show_report(report, Console(file=out, width=80, no_color=True))
    return out.getvalue()


def test_it_is_one_cell_of_the_model() -> None:
    """Ranked and listed once, by the name ``model``; a layer of it is -1, which no layer has."""
    number = xr.DataArray(0.25)
    assert (head_axis(number), head_counts(number), grid(number).tolist()) == ("model", [1], [[0.25]])
    assert list(cells(number)) == [(-1, 0, 0.25)]
    assert top_heads(made_answer("slice", number), 3) == [("model", 0.25)]
    assert head_name("encoder", -1, 0, "model") == "enc.model"
    frame = one_number().to_frame()
    assert frame.iloc[0].to_list() == ["slice", "decoder", -1, "model", 0, 0.25, "nats"]
    assert one_number().top("slice").to_numpy().tolist() == [[-1, 0, 0.25]]


def test_json_holds_a_plain_number() -> None:
    """No axes, no layers, one value; undefined is null."""
    entry = one_number().to_json()["metrics"]["slice"]
    assert (entry["axes"], entry["layers"], entry["values"]) == ([], [], 0.25)
    assert entry["top"] == [["model", 0.25]]
    assert head_map_json(xr.DataArray(math.nan))["values"] is None
    json.dumps(one_number(math.nan).to_json(), allow_nan=False)


def test_the_terminal_and_the_notebook_show_the_number() -> None:
    """No strip and no table of layers; an undefined number is said to be undefined."""
    text = shown(made_report(made_answer("slice", xr.DataArray(0.25))))
    assert "model   0.25" in text
    assert "layer" not in text
    assert "the value is not defined" in shown(one_number(math.nan))
    page = made_report(made_answer("slice", xr.DataArray(0.25)))._repr_html_()
    assert "model 0.25" in page
    assert "<table" not in page
    assert "the value is not defined" in one_number(math.nan)._repr_html_()


def test_its_picture_is_the_number() -> None:
    """Written out with its unit; an undefined number says so; the figure is strict JSON, its strings are text."""
    figure = head_map(xr.DataArray(0.25), title="slice", unit="<nats>")
    (number,) = figure.data
    assert (number.y, number.text) == ((0.25,), ("0.25 &lt;nats&gt;",))
    assert figure.layout.title.text == "slice"
    (undefined,) = head_map(xr.DataArray(math.nan)).layout.annotations
    assert undefined.text == "the value is not defined"
    json.dumps(json.loads(head_map(xr.DataArray(math.nan)).to_json()), allow_nan=False)


def test_intervals_and_files_keep_it(tmp_path: Path) -> None:
    """Bounds over prompts have the axis bound alone; a saved report comes back the same."""
    report = one_number()
    bounds = report.intervals("slice")
    assert bounds.dims == ("bound",)
    low, high = bounds.values
    assert 0.15 <= low < high <= 0.35
    opened = open_report(report.save(tmp_path / "run"))
    assert opened.identical(report)
    assert opened["slice"].shape == ()


def test_one_layer_with_one_value_is_not_the_model() -> None:
    """Axis layer of length one stays a layer."""
    assert head_axis(xr.DataArray(np.array([0.5]), dims=("layer",))) == "layer"
    assert head_axis(made_map([[0.5]])) == "head"
