"""Receiver heads: verticals by hand, scipy's kurtosis, planted heads, and reliability of planted kurtoses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kurtosis

from probe.experiments import sentence_attention
from probe.experiments.receivers import highest_heads, receiver_kurtosis, reliability, verticals
from probe.experiments.sentence_attention import SentenceAttention
from probe.metrics.base import FoldMetric
from probe.metrics.received import Received
from probe.prompts.sentences import Sentence
from probe.testing import Sample, feed

MAPS = st.integers(5, 9).flatmap(lambda n: arrays(np.float64, (2, n, n), elements=st.floats(0.01, 1)))


def test_verticals_by_hand() -> None:
    """Means over rows at least two sentences later; the last two sentences have none."""
    between = np.arange(16.0).reshape(4, 4)
    assert verticals(between, 2).tolist()[:2] == [(8 + 12) / 2, 13.0]
    assert np.isnan(verticals(between, 2)[2:]).all()
    # Row 2 has one cell that counts, row 3 two: ranks 1 of 1, and 1 and 2 of 2.
    assert verticals(between, 2, control_depth=True).tolist()[:2] == [0.75, 1.0]


@given(MAPS, st.integers(1, 4))
def test_ranks_know_the_order_of_rows_alone(between: np.ndarray, proximity: int) -> None:
    """With control_depth nothing changes when a row is multiplied; without, the mean scales with the map."""
    scales = np.linspace(1, 3, between.shape[1])[:, None]
    ranked = verticals(between, proximity, control_depth=True)
    np.testing.assert_array_equal(verticals(between * 2.0, proximity, control_depth=True), ranked)
    np.testing.assert_allclose(verticals(between * scales, proximity, control_depth=True), ranked, atol=1.0)
    np.testing.assert_allclose(verticals(between * 2.0, proximity), 2 * verticals(between, proximity))
    known = ranked[~np.isnan(ranked)]
    assert ((known > 0) & (known <= 1)).all()


@given(MAPS)
def test_kurtosis_is_scipys(between: np.ndarray) -> None:
    """Fisher, biased, undefined sentences omitted."""
    vert = verticals(between, 1)
    if np.ptp(vert[..., :-1], axis=-1).min() > 1e-2:
        expected = kurtosis(vert, axis=-1, fisher=True, bias=True, nan_policy="omit")
        np.testing.assert_allclose(receiver_kurtosis(vert), expected, rtol=1e-9)


def test_kurtosis_of_equal_sentences_is_undefined() -> None:
    """A head that gives every sentence the same is no receiver; it gets NaN, not a number from rounding."""
    assert np.isnan(receiver_kurtosis(np.array([[0.1, 0.1, 0.1, np.nan]]))).all()


class _Watching(FoldMetric):
    """An observer, given calls without a model."""

    info = Received.info

    def __init__(self, observer: SentenceAttention) -> None:
        super().__init__()
        self.asks, self.take = observer.want, observer.update


@pytest.mark.parametrize("chunk", [128, 3])
def test_planted_receiver_head(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """One head gives all to sentence 2 from afar, one attends evenly: exact cells, kurtosis of one among eight."""
    monkeypatch.setattr(sentence_attention, "CHUNK", chunk)
    length, each = 26, 2
    spans = [
        Sentence("", start, start + each) for start in range(1, length - 1, each)
    ]  # a token before and behind
    logits = torch.zeros(1, 2, length, length, dtype=torch.float64)
    logits[0, 0, 7:, 5] = 60.0
    identity = torch.eye(length, dtype=torch.float64)[None, None]
    sample = Sample(logits, identity, torch.ones(1, 1, length, 1, dtype=torch.float64), torch.arange(length))
    found: dict[int, np.ndarray] = {}
    observer = SentenceAttention(spans, lambda layer, between: found.update({layer: between.numpy()}))
    feed(_Watching(observer), [sample])
    even = np.array(
        [[np.mean([1 / (row + 1) for row in range(a.start, a.stop)]) for _ in spans] for a in spans]
    )
    np.testing.assert_allclose(np.tril(found[0][1], -1), np.tril(even, -1), rtol=1e-5)
    np.testing.assert_allclose(found[0][0][3:, 2], 0.5, rtol=1e-6)
    vert = verticals(found[0], 4)[:, :-4]
    np.testing.assert_allclose(vert[0, 2], 0.5, rtol=1e-6)
    share = 1 / 8
    # Only sentence 2 differs among those that the head has seen from afar.
    rest = receiver_kurtosis(np.where(np.arange(8) == 2, vert[0], 0.0)[None])
    assert float(rest[0]) == pytest.approx((1 - 6 * share * (1 - share)) / (share * (1 - share)))
    assert receiver_kurtosis(vert)[0] > receiver_kurtosis(vert)[1] + 1


@given(arrays(np.float64, (3, 4), elements=st.one_of(st.just(np.nan), st.floats(-2, 9))), st.integers(1, 12))
def test_highest_heads_are_as_many_as_asked(values: np.ndarray, count: int) -> None:
    """As many as there are defined values at most, and none is below one that was not chosen."""
    chosen = highest_heads(values, count)
    defined = ~np.isnan(values)
    assert (np.isnan(chosen) == ~defined).all()
    assert np.nansum(chosen) == min(count, defined.sum())
    if 0 < np.nansum(chosen) < defined.sum():
        assert values[chosen == 1].min() >= values[chosen == 0].max()


def test_reliability_of_planted_kurtoses() -> None:
    """Heads that differ alike in every prompt correlate at 1; noise alone does not, and its interval holds 0."""
    random = np.random.default_rng(0)
    heads, noise = random.normal(size=(1, 5, 8)), random.normal(size=(8, 5, 8))
    steady = reliability(np.repeat(heads, 8, axis=0), 0)
    assert (steady.value, steady.low, steady.high) == pytest.approx((1, 1, 1))
    assert steady.heads == 40
    loose = reliability(noise, 0)
    assert loose.low < 0 < loose.high
    assert abs(loose.value) < 0.5
    some = reliability(heads + 0.3 * noise, 0)
    assert 0.5 < some.low < some.high < some.value + 0.05 < 1.05
    assert reliability(heads + 0.3 * noise, 0) == some


def test_reliability_needs_prompts_and_heads() -> None:
    """One prompt has no second half, three have no interval; heads that are undefined in a half do not count."""
    values = np.random.default_rng(1).normal(size=(3, 2, 3))
    assert np.isnan(reliability(values[:1], 0).value)
    three = reliability(values, 0)
    assert np.isfinite(three.value)
    assert np.isnan(three.low)
    values[1, 0] = np.nan
    assert reliability(values, 0).heads == 3
