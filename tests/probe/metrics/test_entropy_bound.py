"""The lower bound on entropy is never violated, and tight where it should be."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.interventions import drop, temperature
from probe.metrics import answers
from probe.metrics.entropy_bound import EntropyBound, lower_bound
from probe.seam.session import Session
from probe.testing import Feeding, Sample, feed, on_pattern, samples


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(2, 24),
    sharp=st.sampled_from([0.0, 0.3, 3.0, 40.0, 400.0]),
    window=st.sampled_from([None, 1, 3]),
    sink=st.sampled_from([None, -30.0, 0.0, 30.0]),
    seed=st.integers(0, 999),
)
def test_never_violated(length: int, sharp: float, window: int | None, sink: float | None, seed: int) -> None:
    """For any spread of scores, with and without window and learned sink, no row's bound exceeds its entropy."""
    one = samples((length,), seed=seed)[0]
    one = Sample(one.query * sharp, one.key, one.value, one.tokens, one.spans, 0, one.scale)
    how = Feeding(window=window, sinks=None if sink is None else torch.full((4,), sink))
    answer = answers(feed(EntropyBound(), [one], how))[0]
    if window == 1 and sink is None:
        assert np.isnan(answer.head_map).all()  # every row sees one key
        return
    assert (answer.head_map >= -1e-5).all()
    assert (answer.extra["violations"] == 0).all()
    assert (answer.extra["bound"] >= 0).all()


@settings(max_examples=50, deadline=None)
@given(outcomes=st.integers(2, 2000), gap=st.floats(0, 50))
def test_tight_for_one_large_score(outcomes: int, gap: float) -> None:
    """One score above equal others has exactly the bound as its entropy."""
    logits = torch.zeros(outcomes, dtype=torch.float64)
    logits[0] = gap
    p = logits.softmax(0)
    entropy = float(-torch.special.xlogy(p, p).sum())
    spread = torch.linalg.vector_norm(logits - logits.mean())
    bound = float(lower_bound(spread, torch.tensor(float(outcomes), dtype=torch.float64)))
    assert bound == pytest.approx(entropy, abs=1e-9)


def test_margin_of_a_known_head() -> None:
    """Mass on two keys alike leaves log 2 less the bound of three scores of that norm."""
    pattern = torch.eye(3)
    pattern[1:, :2] = 1.0
    pattern[2, 2] = 0.02
    rows = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.02]])
    margins = []
    for row, seen in zip(rows.double(), (2, 3), strict=True):
        p = row[:seen] / row[:seen].sum()
        log = p.log()
        bound = lower_bound((log - log.mean()).norm(), torch.tensor(float(seen), dtype=torch.float64))
        margins.append(float(-(p * log).sum() - bound))
    assert on_pattern(EntropyBound(), pattern[None]) == pytest.approx([np.mean(margins)], abs=1e-5)
    assert margins[0] == pytest.approx(0.0, abs=1e-12)
    assert margins[1] > 0.1


def test_holds_under_edits_and_leaves_out_rows_without_their_mass() -> None:
    """Another temperature is another softmax; rows that `drop` took mass from are no distribution, and do not count."""
    ids = tiny.tokens(1, 14)
    maps = {}
    for name, edits in {
        "plain": [],
        "warm": [temperature(t=0.3)],
        "cut": [drop(queries=(7, 14), keys=(0, 3))],
    }.items():
        metric, model = EntropyBound(), tiny.llama()
        with Session(model, [metric], edits), torch.no_grad():
            model(ids)
        maps[name] = answers(metric)[0]
    assert all((one.extra["violations"] == 0).all() for one in maps.values())
    assert not np.allclose(maps["plain"].head_map, maps["warm"].head_map)
    assert maps["cut"].by_prompt is not None
    assert (maps["cut"].by_prompt["weight"] < maps["plain"].by_prompt["weight"]).all()
