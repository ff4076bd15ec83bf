"""What the head page draws is the pattern itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from probe_app.tile import KeptView
from small_models import letters, llama

import probe
from probe.report.kept import KeptRun
from probe.terms import HeadId

TEXT = "the cat sat on the mat. the dog sat on the log. the cat sat on the dog."


@pytest.fixture(scope="module")
def true_pattern() -> np.ndarray:
    """The pattern of L1.H2, captured."""
    torch.manual_seed(0)
    found = probe.capture((llama(), letters()), TEXT, ["pattern"], layers=[1], heads=[2])["pattern"]
    return np.asarray(found.values[0, 0])


def test_a_zoom_is_exact(reports: Path, true_pattern: np.ndarray) -> None:
    """Down to single tokens, within what float16 queries and keys allow."""
    view = KeptView(KeptRun(reports / "exact"), HeadId("decoder", 1, 2), 0)
    tile, cell, queries, keys = view.tile("20-30", "5-25")
    assert (cell, queries, keys) == ("tokens", (20, 30), (5, 25))
    np.testing.assert_allclose(tile.values, true_pattern[20:30, 5:25], atol=2e-3)
    assert tile.coords["query_pos"].values.tolist() == list(range(20, 30))


def test_rows_of_a_window_and_their_entropy(reports: Path, true_pattern: np.ndarray) -> None:
    """What hovering shows is the row within the window; the entropy is that of the whole row."""
    view = KeptView(KeptRun(reports / "exact"), HeadId("decoder", 1, 2), 0)
    rows, spread = view.rows(10, 40), view.entropies(10, 40)
    assert rows is not None
    assert spread is not None
    np.testing.assert_allclose(rows, true_pattern[10:40, 10:40], atol=2e-3)
    p = true_pattern[10:40].astype(np.float64)
    np.testing.assert_allclose(spread, -(p * np.log(np.where(p > 0, p, 1))).sum(-1), atol=1e-2)


def test_without_queries_and_keys_there_are_blocks(reports: Path) -> None:
    """A pooled map is cut at its blocks; rows of single tokens cannot be had."""
    view = KeptView(KeptRun(reports / "pooled"), HeadId("decoder", 1, 2), 0)
    tile, *_ = view.tile("0-8", None)
    assert tile.sizes["query_pos"] == 8
    assert view.rows(0, 8) is None
