"""Matrices over sentences as a picture."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from made_reports import made_answer

from probe.errors import ReportError
from probe.plots import sentence_map
from probe.report import Answer


@pytest.fixture
def answer() -> Answer:
    """Two prompts, of three sentences and of two."""
    values = np.full((2, 3, 3), np.nan)
    values[0][np.tril_indices(3)] = [1, 2, 3, 4, 5, 6]
    values[1, :2, :2][np.tril_indices(2)] = [7, 8, 9]
    coords = {"prompt": ["a", "<b>"], "sentence": [0, 1, 2], "source": [0, 1, 2]}
    grid = xr.DataArray(values, coords, ("prompt", "sentence", "source"))
    return replace(made_answer("thought_anchors"), extra={"map": grid, "start": grid[..., 0]})


def test_every_cell_is_where_it_belongs(answer: Answer) -> None:
    """Sources across, sentences down from the first; what lies behind a sentence is a gap."""
    figure = sentence_map(answer)
    assert [list(row) for row in figure.data[0].z] == [[1, None, None], [2, 3, None], [4, 5, 6]]
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text == "source sentence"


def test_padding_is_cut_and_texts_are_safe(answer: Answer) -> None:
    """A prompt shows its own sentences alone; texts are escaped and shortened."""
    figure = sentence_map(answer, prompt=1, sentences=[" x < y. ", "z" * 100])
    assert [list(row) for row in figure.data[0].z] == [[7, None], [8, 9]]
    assert figure.data[0].customdata[1][0][1] == "x &lt; y."
    assert len(figure.data[0].customdata[1][0][0]) == 60
    assert figure.layout.title.text == "thought_anchors · &lt;b&gt;"


def test_what_is_not_there_is_refused(answer: Answer) -> None:
    """Another array, another prompt, another number of texts: each says what there is."""
    with pytest.raises(ReportError, match=r"'suppression' was asked .* which has map"):
        sentence_map(answer, "suppression")
    with pytest.raises(ReportError, match="has none"):
        sentence_map(made_answer("entropy"))
    with pytest.raises(ReportError, match="prompt 2 was asked; there are 2"):
        sentence_map(answer, prompt=2)
    with pytest.raises(ReportError, match="2 sentences were given; the prompt has 3"):
        sentence_map(answer, sentences=["a", "b"])
