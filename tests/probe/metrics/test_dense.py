"""Every metric equals its definition, written as loops over the dense float64 pattern."""

import dense_metrics as dense
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.metrics import METRICS, PointMetric, answers, make
from probe.testing import Feeding, feed, samples

KINDS = {
    "causal": Feeding(),
    "padded": Feeding(pad=2),
    "window": Feeding(window=5),
    "sinks": Feeding(sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
    "cached window with sinks": Feeding(window=4, cuts=(6, 7, 8), sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", dense.ORACLES)
def test_equals_brute_force(spec: str, kind: str) -> None:
    """The head map equals the loops, within float32 sums, for each way the prompts can lie."""
    prompts, how = samples((14, 9), seed=3), KINDS[kind]
    found = answers(feed(make(spec), prompts, how))[0].head_map.values
    np.testing.assert_allclose(
        found, dense.expected(spec, prompts, how.window, how.sinks), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("spec", dense.TOKEN_MAPS)
def test_token_maps_equal_brute_force(spec: str) -> None:
    """Token maps are ragged by prompt and equal the loops token by token."""
    prompts = samples((14, 9), seed=5)
    maps = answers(feed(make(spec), prompts, Feeding(pad=1, cuts=(4, 5, 11))))[0].token_maps
    for one in prompts:
        found = maps[one.number]
        assert found.sizes["token"] == one.length
        for layer in range(2):
            p = dense.pattern(one, layer)
            for head in range(4):
                wanted = dense.TOKEN_MAPS[spec](
                    dense.Dense(p[head], one, None, head, sinks=False, layer=layer)
                )
                np.testing.assert_allclose(found.values[layer, head], wanted, rtol=2e-5, atol=2e-6)


def test_every_metric_has_an_oracle() -> None:
    """No metric of attention goes unchecked; local_global and entropy_query_norm look at all heads or prompts at once.

    Metrics of the residual stream, MLPs and routers have tests of their own.
    """
    elsewhere = {name for name, one in METRICS.items() if issubclass(one, PointMetric)} | {
        "local_global",
        "sink_heads",
        "entropy_query_norm",
        "entropy_state",  # these five have oracles of their own, in tests named after them
        "head_diversity",
        "cascade_importance",
        "cls_attention",
        "hiprune",
    }
    assert {spec.partition(":")[0] for spec in dense.ORACLES} | elsewhere == set(METRICS)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 20), pad=st.integers(0, 4), seed=st.integers(0, 99), data=st.data())
def test_any_cut_and_padding_gives_the_same(length: int, pad: int, seed: int, data: st.DataObject) -> None:
    """However a prompt is cut into cached steps, the default metrics say what the loops say."""
    cuts = tuple(data.draw(st.lists(st.integers(1, 24), max_size=4, unique=True).map(sorted)))
    prompts = samples((length,), seed=seed)
    for spec in ("entropy", "sink", "received", "distance", "previous_token"):
        found = answers(feed(make(spec), prompts, Feeding(pad=pad, cuts=cuts)))[0].head_map.values
        wanted = dense.expected(spec, prompts, None, None)
        np.testing.assert_allclose(found, wanted, rtol=5e-5, atol=5e-5, err_msg=spec)
