"""How an answer and its untrained baseline compare."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_reports import made_answer, made_map
from scipy.stats import spearmanr

from probe.report.baseline import compare, comparison_json, comparison_line


def beside(mine: object, theirs: object):
    answer = made_answer(head_map=made_map(mine))
    return replace(answer, extra={"untrained": made_map(theirs)})


def test_a_case_by_hand() -> None:
    """Means over what is defined; ranks over what is defined in both."""
    answer = beside([[1.0, 2.0, 3.0, np.nan]], [[30.0, 20.0, 10.0, 99.0]])
    assert comparison_json(answer) == {
        "kind": "untrained",
        "trained_mean": 2.0,
        "untrained_mean": 39.75,
        "rank_correlation": -1.0,
    }
    assert comparison_line(answer) == "mean 2 trained, 39.8 untrained; rank correlation -1.00 over 3"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_ranks_are_spearmans(pairs: list[tuple[int, int]]) -> None:
    """Equal to SciPy's, ties included; undefined where a side does not vary."""
    mine, theirs = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    found = compare(beside([mine], [theirs]))
    assert found is not None
    if len(set(mine)) == 1 or len(set(theirs)) == 1:
        assert np.isnan(found.rank_correlation)
    else:
        assert found.rank_correlation == pytest.approx(spearmanr(mine, theirs).statistic, abs=1e-9)


def test_one_number_of_the_model_has_means_only() -> None:
    """No ranks, no crash; without a baseline nothing is said."""
    answer = replace(made_answer(head_map=xr.DataArray(0.5)), extra={"untrained": xr.DataArray(0.25)})
    assert comparison_line(answer) == "mean 0.5 trained, 0.25 untrained"
    assert compare(made_answer()) is None
    assert comparison_json(made_answer()) is None
    assert comparison_line(made_answer()) == ""
