"""How often heads copy: counted by hand, and as laws over any tests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probe.experiments.retrieval_split import activity, shares_line

COORDS = {"layer": np.arange(2), "head": np.arange(2)}
GRID = ((500, 1000), (0.1, 0.9))


def test_counted_by_hand() -> None:
    """Four tests, one cell without any: an always active head, a strong one, a weak one, and one that never copies."""
    always, most, weak, never = [0.5, 0.1, 1.0, 0.2], [0.0, 0.3, 0.2, 0.4], [0.0, 0.0, 0.0, 0.1], [0.0] * 4
    tests = np.array([[always, most], [weak, never]]).transpose(2, 0, 1)
    cells = [(500, 0.1), (500, 0.1), (500, 0.9), (1000, 0.1)]
    found = activity(tests, cells, GRID, COORDS)
    assert found["activation_frequency"].values.tolist() == [[1.0, 0.75], [0.25, 0.0]]
    assert found["split"].values.tolist() == [[2, 1], [1, 0]]
    assert found["activation_grid"].sel(length=500, depth=0.1).values.tolist() == [[1.0, 0.5], [0.0, 0.0]]
    assert found["activation_grid"].sel(length=1000, depth=0.9).isnull().all()
    assert found["shares"].to_series().to_dict() == {
        "zero": 0.25, "weak": 0.25, "retrieval": 0.5, "mostly_active": 0.5, "always_active": 0.25,
    }  # fmt: skip
    line = shares_line(found["shares"])
    assert "25 % score exactly 0" in line
    assert "50 % are active in more than half of the counted tests, 25 % in all" in line


@given(
    arrays(np.float64, (5, 2, 2), elements=st.sampled_from([0.0, 0.05, 0.5, 1.0])),
    st.lists(st.tuples(st.sampled_from(GRID[0]), st.sampled_from(GRID[1])), min_size=5, max_size=5),
)
def test_laws_over_any_tests(tests: np.ndarray, cells: list[tuple[int, float]]) -> None:
    """The first three shares sum to 1; cells, weighted by their tests, pool to the frequency; split follows it."""
    found = activity(tests, cells, GRID, COORDS)
    assert float(found["shares"][:3].sum()) == pytest.approx(1.0)
    assert float(found["shares"][4]) <= float(found["shares"][3])
    weights = np.array([[cells.count((n, d)) for d in GRID[1]] for n in GRID[0]])
    pooled = (weights[..., None, None] * found["activation_grid"].fillna(0.0)).sum(["length", "depth"]) / 5
    np.testing.assert_allclose(pooled, found["activation_frequency"])
    split, frequency = found["split"].values, found["activation_frequency"].values
    assert ((split == 0) == (frequency == 0)).all()
    assert ((split == 2) == (frequency == 1)).all()


def test_absent_heads_and_no_tests_are_undefined() -> None:
    """A head that a layer does not have counts nowhere; without tests everything is undefined."""
    tests = np.array([[[1.0, np.nan], [0.0, 0.0]]])
    found = activity(tests, [(500, 0.1)], GRID, COORDS)
    assert np.isnan(found["split"].values[0, 1])
    assert float(found["shares"].sel(group="zero")) == pytest.approx(2 / 3)
    empty = activity(np.empty((0, 2, 2)), [], GRID, COORDS)
    assert all(bool(one.isnull().all()) for one in empty.values())
