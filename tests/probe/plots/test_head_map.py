"""A head map as a picture."""

import itertools
import json

import numpy as np
import pytest
from made_reports import made_answer, made_map, made_report

from probe.errors import ReportError
from probe.plots import colorscale, head_map


def test_every_head_is_where_it_belongs() -> None:
    """Layers down, heads across, named on hover; undefined and absent heads are gaps."""
    data = made_map([[0.1, 0.2], [np.nan, 9.0]], layers=[0, 3], n_heads=[2, 1])
    heat = head_map(data).data[0]
    assert [list(row) for row in heat.z] == [[0.1, 0.2], [None, None]]
    assert [list(row) for row in heat.customdata] == [["L0.H0", "L0.H1"], ["L3.H0", ""]]
    assert (list(heat.x), list(heat.y)) == (["0", "1"], ["0", "3"])


def test_the_first_layer_is_at_the_top_and_labels_are_words() -> None:
    """Layer numbers with gaps are labels, not a scale."""
    figure = head_map(made_report()["entropy"], title="entropy", unit="nats")
    assert figure.layout.yaxis.autorange == "reversed"
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "category")
    assert figure.layout.title.text == "entropy"
    assert figure.data[0].colorbar.title.text == "nats"


def test_towers_and_kv_heads_have_their_names() -> None:
    """As everywhere else."""
    vision = head_map(made_map([[1.0]]), tower="vision")
    shared = head_map(made_map([[1.0]]).rename(head="kv_head"))
    assert vision.data[0].customdata[0][0] == "vision.L0.H0"
    assert shared.data[0].customdata[0][0] == "L0.KV0"
    assert shared.layout.xaxis.title.text == "kv_head"


def test_another_array_is_refused() -> None:
    """The message names its axes."""
    answer = made_answer(by_prompt=made_map([[1.0]]).expand_dims(prompt=2))
    with pytest.raises(ReportError, match="prompt, layer, head"):
        head_map(answer.by_prompt)


def test_the_figure_is_strict_json_and_its_strings_are_text() -> None:
    """A browser draws what is sent; a name is not markup."""
    figure = head_map(made_map([[np.nan, np.inf]]), title="<b onclick=x>a", unit="<i>")
    sent = figure.to_json()
    json.loads(sent, parse_constant=pytest.fail)
    assert "<b" not in json.loads(sent)["layout"]["title"]["text"]


def test_the_colour_scale_grows_brighter_throughout() -> None:
    """Order can be read without telling colours apart."""
    light = [
        sum(w * int(c) for w, c in zip((0.299, 0.587, 0.114), color[4:-1].split(","), strict=True))
        for _, color in colorscale()
    ]
    assert all(a < b for a, b in itertools.pairwise(light))
