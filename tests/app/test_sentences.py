"""Sentences on the page of a head: the means of its own pattern, and what an experiment found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from probe_app.sentences import between_sentences, prompt_row, sentence_cards, sentence_texts
from probe_app.tile import KeptView
from small_models import letters, llama

import probe
from probe.report import Report, open_report
from probe.report.kept import KeptRun
from probe.terms import HeadId

TEXT = "the cat sat on the mat. the dog sat on the log. the cat sat on the dog."
BOUNDS = np.array([[0, 20], [20, 40], [44, len(TEXT)]])


@pytest.fixture(scope="module")
def view(reports: Path) -> KeptView:
    """L1.H2 of the report that kept queries and keys."""
    return KeptView(KeptRun(reports / "exact"), HeadId("decoder", 1, 2), 0)


@pytest.fixture(scope="module")
def anchored(reports: Path) -> Report:
    """The report, its first answer with sentences as `thought_anchors` writes them."""
    report = open_report(reports / "exact")
    ids = {"prompt": [report.prompts[0].id]}
    padded = np.vstack([BOUNDS, [np.nan, np.nan]])
    extra = {
        name: xr.DataArray(padded[None, :, at], dims=("prompt", "sentence"), coords=ids)
        for at, name in enumerate(("start", "stop"))
    }
    between = np.full((1, 4, 4), np.nan)
    between[0, :3, :3] = np.tril(np.ones((3, 3)))
    extra["map"] = xr.DataArray(between, dims=("prompt", "sentence", "source"), coords=ids)
    answers = [replace(report.answers[0], extra=extra), *report.answers[1:]]
    return Report(answers, report.provenance, report.prompts)


def test_a_cell_is_the_mean_of_the_pattern_over_both_sentences(view: KeptView) -> None:
    """Later sources have none."""
    torch.manual_seed(0)
    true = probe.capture((llama(), letters()), TEXT, ["pattern"], layers=[1], heads=[2])["pattern"].values[
        0, 0
    ]
    found = between_sentences(view, BOUNDS)
    for at, (start, stop) in enumerate(BOUNDS):
        for source, (first, last) in enumerate(BOUNDS):
            if source > at:
                assert np.isnan(found[at, source])
            else:
                mean = float(np.asarray(true)[start:stop, first:last].mean())
                assert found[at, source] == pytest.approx(mean, abs=2e-3)


def test_the_page_shows_the_heads_own_and_the_receivers(view: KeptView, anchored: Report) -> None:
    """A title and two cards; nothing for a report without sentences."""
    row = prompt_row(anchored, anchored.answers[0], 0)
    assert row == 0
    texts = sentence_texts(anchored, anchored.answers[0], row)
    assert texts is not None
    assert [len(text) for text in texts] == [20, 20, len(TEXT) - 44]
    assert len(sentence_cards(anchored, view)) == 2
    assert len(sentence_cards(anchored, view)[1].children) == 2  # type: ignore[attr-defined]
    plain = Report(
        [replace(one, extra={}) for one in anchored.answers], anchored.provenance, anchored.prompts
    )
    assert sentence_cards(plain, view) == []


def test_where_no_queries_were_kept_there_are_the_receivers_alone(reports: Path, anchored: Report) -> None:
    """A head's own map needs them."""
    pooled = KeptView(KeptRun(reports / "pooled"), HeadId("decoder", 1, 2), 0)
    assert len(sentence_cards(anchored, pooled)[1].children) == 1  # type: ignore[attr-defined]
    assert prompt_row(anchored, anchored.answers[0], 3) is None


def test_a_row_under_another_name_is_the_first_prompt_where_it_ends_alike(anchored: Report) -> None:
    """The shipped text has a name of its own in an experiment; another text must not be taken for it."""
    answer = anchored.answers[0]
    renamed = {name: one.assign_coords(prompt=["text"]) for name, one in answer.extra.items()}
    assert prompt_row(anchored, replace(answer, extra=renamed), 0) == 0
    shorter = {**renamed, "stop": renamed["stop"] - 1}
    assert prompt_row(anchored, replace(answer, extra=shorter), 0) is None
