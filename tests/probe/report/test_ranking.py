"""Which heads are the top ones."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_reports import made_answer, made_map, made_report

from probe.errors import ReportError
from probe.report.ranking import cells, top_heads


def test_the_better_end_comes_first_and_undefined_last() -> None:
    """High-is-better descends, low-is-better ascends; NaN is at the end of both."""
    values = made_map([[0.1, 0.9], [np.nan, 0.5]], layers=[0, 3])
    high = made_report(made_answer("entropy", values, better="high")).top("entropy")
    low = made_report(made_answer("entropy", values, better="low")).top("entropy")
    assert list(high.columns) == ["layer", "head", "score"]
    assert high[["layer", "head"]].to_numpy().tolist() == [[0, 1], [3, 1], [0, 0], [3, 0]]
    assert low[["layer", "head"]].to_numpy().tolist() == [[0, 0], [3, 1], [0, 1], [3, 0]]
    assert np.isnan(low["score"].iloc[-1])


@given(
    values=arrays(np.float64, (3, 4), elements=st.floats(allow_nan=True, allow_infinity=False)),
    n=st.integers(0, 15),
)
def test_ranking_is_a_permutation_of_the_heads(values: np.ndarray, n: int) -> None:
    """No head is lost or repeated, scores are those of the map, and defined scores descend."""
    report = made_report(made_answer("entropy", made_map(values)))
    everything = report.top("entropy", 12)
    assert sorted(zip(everything["layer"], everything["head"], strict=True)) == [
        (i, j) for i in range(3) for j in range(4)
    ]
    for layer, head, score in everything.itertuples(index=False):
        np.testing.assert_equal(score, values[layer, head])
    scores = everything["score"].dropna().to_numpy()
    assert (np.diff(scores) <= 0).all()
    assert len(report.top("entropy", n)) == min(n, 12)


def test_heads_that_a_layer_does_not_have_are_no_heads() -> None:
    """Filling of ragged layers is neither ranked nor listed."""
    answer = made_answer("entropy", made_map([[1, 2, 3], [9, 9, 9]], n_heads=[3, 1]))
    report = made_report(answer)
    assert len(report.top("entropy", 10)) == 4
    assert len(report.to_frame()) == 4
    assert [value for *_, value in cells(answer.head_map)] == [1, 2, 3, 9]


def test_names_follow_tower_and_axis() -> None:
    """An encoder's head is enc.L3.H1, a key/value head is L0.KV1."""
    encoder = made_answer(tower="encoder", head_map=made_map([[0.0, 1.0]], layers=[3]))
    shared = made_answer(head_map=made_map([[0.0, 1.0]]).rename(head="kv_head"))
    assert top_heads(encoder, 1) == [("enc.L3.H1", 1.0)]
    assert top_heads(shared, 1) == [("L0.KV1", 1.0)]


def test_undefined_heads_are_not_among_the_top_names() -> None:
    """A name in a list of top heads always has a score."""
    assert top_heads(made_answer(head_map=made_map([[np.nan, 0.5]])), 5) == [("L0.H1", 0.5)]


def test_a_map_without_coordinates_is_numbered_from_zero() -> None:
    """Third parties may give a bare array."""
    bare = xr.DataArray([[0.1, 0.2]], dims=("layer", "head"))
    assert made_report(made_answer(head_map=bare)).top("entropy", 1).to_numpy().tolist() == [[0, 1, 0.2]]


def test_a_negative_number_of_heads_is_refused() -> None:
    """Not the tail of the table."""
    with pytest.raises(ReportError, match="0 or more"):
        made_report().top("entropy", -1)


def test_the_frame_has_one_row_per_head_of_every_answer() -> None:
    """A tidy table, ready for pandas."""
    frame = made_report(made_answer("entropy"), made_answer("sink:n=4")).to_frame()
    assert list(frame.columns) == ["metric", "tower", "layer", "axis", "head", "value", "unit"]
    assert frame.groupby("metric").size().to_dict() == {"entropy": 6, "sink:n=4": 6}
    assert (
        frame.loc[(frame.metric == "entropy") & (frame.layer == 3) & (frame["head"] == 2), "value"].item()
        == 0.7
    )
