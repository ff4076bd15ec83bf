"""Rows and tiles of the pattern from kept queries and keys, in NumPy alone, against attention written out."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ReportError
from probe.report.kept import KeptLayer, KeptPart, KeptRun, Rules

WORDS = ["causal", "within(5)", "near(3)", "same_chunk(4)", "first(3)"]


def visible(word: str, n: int) -> np.ndarray:
    """The rule's cells, from its definition."""
    q, k = np.arange(n)[:, None], np.arange(n)[None]
    return {
        "causal": k <= q,
        "within(5)": q - k < 5,
        "near(3)": abs(q - k) <= 3,
        "same_chunk(4)": q // 4 == k // 4,
        "first(3)": np.broadcast_to(k < 3, (n, n)),
    }[word]


def made(n: int, rules: Rules, cuts: tuple[int, ...] = (), softcap: float | None = None, seed: int = 0):
    """A kept layer of 4 heads on 2 key heads, cut into parts, and its dense pattern."""
    draw = np.random.default_rng(seed)
    query = draw.normal(size=(4, n, 8)).astype(np.float16)
    key = draw.normal(size=(2, n, 8)).astype(np.float16)
    scores = (
        np.einsum("hqd,hkd->hqk", query.astype(np.float64), np.repeat(key, 2, 0).astype(np.float64)) * 0.7
    )
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    seen = np.ones((n, n), dtype=bool)
    for word in rules.all_of:
        seen &= visible(word, n)
    if rules.any_of:
        seen &= np.any([visible(word, n) for word in rules.any_of], axis=0)
    scores = np.where(seen, scores, -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = np.log(np.exp(scores).sum(-1))
        pattern = np.where(seen, np.exp(scores - lse[..., None]), 0.0)
    parts = []
    for start, stop in zip((0, *cuts), (*cuts, n), strict=True):
        at = np.arange(start, stop)
        arrays = {"query": query[:, at], "key": key[:, at], "lse": lse[:, at].astype(np.float32)}
        arrays |= dict.fromkeys(("query_pos", "key_pos", "query_token", "key_token"), at)
        parts.append(KeptPart(arrays, 0.7, softcap, rules))
    return KeptLayer("decoder", 3, parts), pattern


@given(
    n=st.integers(2, 40),
    all_of=st.sets(st.sampled_from(WORDS), max_size=2),
    any_of=st.sets(st.sampled_from(WORDS), max_size=2),
    softcap=st.sampled_from([None, 2.0]),
)
def test_rows_are_the_dense_pattern_under_every_rule(n, all_of, any_of, softcap):
    """Whatever rules hide, rows equal the softmax written out; rows that see nothing are 0."""
    layer, pattern = made(n, Rules(tuple(all_of), tuple(any_of)), softcap=softcap)
    for head in range(4):
        np.testing.assert_allclose(layer.rows(head, slice(None)), pattern[head], atol=2e-6)


@given(n=st.integers(1, 600), rows=st.integers(1, 300), columns=st.integers(1, 300), data=st.data())
def test_tiles_are_means_of_the_rows(n, rows, columns, data):
    """A tile's cells are plain means over the pairs that they hold, whatever the grid and the window."""
    layer, pattern = made(n, Rules(("causal",)))
    first, left = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    tile = layer.tile(1, slice(first, n), slice(left, n), (rows, columns))
    window = pattern[1, first:, left:]
    step, width = -(-window.shape[0] // rows), -(-window.shape[1] // columns)
    expected = (
        [
            [window[i : i + step, j : j + width].mean() for j in range(0, window.shape[1], width)]
            for i in range(0, window.shape[0], step)
        ]
        if window.size <= 4000
        else None
    )
    assert tile.shape[0] <= rows
    assert tile.shape[1] <= columns
    if expected is not None:
        np.testing.assert_allclose(tile, expected, atol=2e-6)


def test_parts_are_one_layer():
    """A prompt taken in chunks gives the rows of a prompt taken whole; later keys are not seen by earlier parts."""
    whole, pattern = made(20, Rules(("causal",)))
    parts, _ = made(20, Rules(("causal",)), cuts=(7, 13))
    np.testing.assert_allclose(parts.rows(2, [0, 6, 7, 19]), whole.rows(2, [0, 6, 7, 19]), atol=2e-6)
    np.testing.assert_allclose(parts.rows(2, [-1], slice(3, 9)), pattern[2, -1:, 3:9], atol=2e-6)
    early, _ = made(20, Rules(), cuts=(7,))
    assert float(early.rows(0, slice(0, 7))[:, 7:].max()) == 0.0


def test_unknown_rules_are_an_error():
    """A mask that this version cannot read is refused by the rule's name."""
    layer, _ = made(3, Rules())
    odd = KeptLayer("decoder", 3, [KeptPart(layer.parts[0].arrays, 1.0, None, Rules(("spiral",)))])
    assert not Rules(("spiral",)).known
    with pytest.raises(ReportError, match="spiral"):
        odd.rows(0, [0])


def test_an_empty_folder_kept_nothing(tmp_path):
    """A folder without kept files says so."""
    kept = KeptRun(tmp_path)
    assert not kept.has_qk
    assert not kept.has_map
    with pytest.raises(ReportError, match="keep='qk'"):
        kept.layer(0)


def test_the_reader_needs_no_torch():
    """Tiles can be computed where torch is not installed."""
    code = "import sys, probe.report.kept; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
