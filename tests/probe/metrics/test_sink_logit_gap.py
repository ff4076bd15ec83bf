"""The sink logit gap: prefix sums and blocks of rows are the same number, and what has no short form is exact too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels import attend, score_block
from probe_kernels.mask import Mask, causal, within
from probe_kernels.types import Attended, Layout, Scores

from probe.metrics import answers, make
from probe.metrics.sink_logit_gap import _by_prefix, _by_rows, _plain
from probe.seam.call import AttentionCall, Batch, Place


def call(
    n: int, seed: int, *, pad: int = 0, cached: int = 0, window: int = 0, **more: object
) -> AttentionCall:
    """Four heads on two key/value heads; the first `cached` queries were asked before."""
    made = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, heads, n, 8, generator=made, dtype=torch.float64) for heads in (4, 2))
    real = torch.stack([torch.arange(n) >= 0, torch.arange(n) >= pad])
    rules = (causal(), within(window)) if window else (causal(),)
    at = torch.arange(n)[None]
    layout = Layout(Mask(rules), at[:, cached:], at, query_real=real[:, cached:], key_real=real)
    batch = Batch((0, 1), int(cached > 0), torch.zeros(2, n, dtype=torch.int64), real)
    scores = Scores(q[:, :, cached:], k, None, 0.5, **more)  # type: ignore[arg-type]
    return AttentionCall(Place("a", "decoder", 0), batch, "prefill", scores, layout, causal=True)


def value(seen: AttentionCall, spec: str) -> np.ndarray:
    metric = make(spec)
    assert seen.scores is not None
    metric.update(seen, attend(seen.scores, seen.layout, metric.want(seen)))
    return answers(metric)[0].head_map.values[0]


def by_hand(seen: AttentionCall, *, others: bool) -> np.ndarray:
    """Loops over the scores of each row."""
    assert seen.scores is not None
    n_query, n_key = seen.size[1:]
    s = score_block(seen.scores, seen.layout, slice(0, n_query), slice(0, n_key)).double()
    out = []
    for head in range(4):
        gaps = []
        for b in range(2):
            for i in range(n_query):
                visible = torch.isfinite(s[b, head, i]).nonzero()[:, 0].tolist()
                own = int(seen.layout.query_pos[0, i])
                counted = [j for j in visible if not others or j not in (visible[0], own)]
                if bool(seen.query_real[b, i]) and len(counted) >= (1 if others else 2):
                    gaps.append(float(s[b, head, i, visible[0]] - s[b, head, i, counted].mean()))
        out.append(np.mean(gaps))
    return np.array(out)


KINDS = {
    "plain": {},
    "window": {"window": 4},
    "softcap": {"softcap": 2.0},
    "bias": {
        "bias": torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    },
    "alibi": {"alibi": torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)},
    "sinks": {"sinks": torch.tensor([1.0, 0.0, -1.0, 2.0])},
}


@pytest.mark.parametrize("mean", ["others", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_loops_over_the_scores(kind: str, mean: str) -> None:
    """Exact for grouped heads and padding, whatever makes the scores."""
    seen = call(12, 0, pad=3, **KINDS[kind])
    assert seen.scores is not None
    assert _plain(seen) == (kind in ("plain", "sinks"))
    found = value(seen, f"sink_logit_gap:mean={mean}")
    np.testing.assert_allclose(found, by_hand(seen, others=mean == "others"), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 24), pad=st.integers(0, 8), seed=st.integers(0, 99), others=st.booleans(), data=st.data()
)
def test_prefix_sums_equal_blocks_of_rows(
    n: int, pad: int, seed: int, others: bool, data: st.DataObject
) -> None:
    """The short form and the scores agree row by row, cached or not."""
    seen = call(n, seed, pad=min(pad, n - 1), cached=data.draw(st.integers(0, n - 1)))
    assert seen.scores is not None
    (gap, count), (other, other_count) = (how(seen, seen.scores, others) for how in (_by_prefix, _by_rows))
    real = seen.query_real[:, None].expand_as(count)
    assert torch.equal(count[real].clamp_min(0), other_count[real])
    keep = real & (count > 0)
    torch.testing.assert_close(gap[keep], other[keep], rtol=1e-5, atol=1e-5)


def test_it_is_silent_about_weights_alone() -> None:
    """Where only the pattern is known there are no scores."""
    seen = replace(call(6, 0), scores=None, pattern=torch.ones(2, 4, 6, 6) / 6)
    metric = make("sink_logit_gap")
    metric.update(seen, Attended())
    answer = answers(metric)[0]
    assert np.isnan(answer.head_map.values).all()
    assert any("not applicable" in line for line in answer.notes)
