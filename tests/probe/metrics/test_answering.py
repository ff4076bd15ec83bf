"""Answers are labelled, ragged where the model is, and pooled as stated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from probe_kernels import attend
from probe_kernels.mask import Mask, causal
from probe_kernels.types import Layout, Scores

from probe.errors import MetricError
from probe.metrics import answers, make, reordered
from probe.metrics.base import CellKey
from probe.seam.call import AttentionCall, Batch, Place
from probe.testing import Feeding, Sample, feed, samples


def one_layer(layer: int, heads: int, kv_heads: int, n: int = 6, *, beams: bool = False) -> AttentionCall:
    scores = Scores(
        torch.randn(1, heads, n, 4), torch.randn(1, kv_heads, n, 4), torch.randn(1, kv_heads, n, 4), 0.5
    )
    at = torch.arange(n)[None]
    batch = Batch((0,), 0, at, reordered=beams)
    place = Place(f"layers.{layer}", "decoder", layer)
    return AttentionCall(place, batch, "prefill", scores, Layout(Mask((causal(),)), at, at), causal=True)


def test_layers_with_different_heads_are_padded_with_nan() -> None:
    """A model with ragged heads and gaps in its layers keeps its own labels."""
    metric = make("received")
    for layer, heads in ((1, 4), (5, 2)):
        call = one_layer(layer, heads, 1)
        assert call.scores is not None
        metric.update(call, attend(call.scores, call.layout, metric.want(call)))
    answer = answers(metric)[0]
    assert answer.head_map.dims == ("layer", "head")
    assert answer.head_map["layer"].values.tolist() == [1, 5]
    assert answer.head_map["n_heads"].values.tolist() == [4, 2]
    assert np.isnan(answer.head_map.sel(layer=5).values[2:]).all()
    assert np.isfinite(answer.head_map.sel(layer=1).values).all()
    assert answer.token_maps[0].dims == ("layer", "head", "token")
    assert answer.token_maps[0].shape == (2, 4, 6)


def test_rows_are_pooled_over_prompts_and_prompts_are_kept() -> None:
    """The head map weighs prompts by their rows; `by_prompt` holds each prompt's own mean."""
    prompts = samples((12, 5))
    answer = answers(feed(make("distance"), prompts))[0]
    assert answer.by_prompt is not None
    assert answer.by_prompt.dims == ("prompt", "layer", "head")
    pooled = (12 * answer.by_prompt.values[0] + 5 * answer.by_prompt.values[1]) / 17
    np.testing.assert_allclose(answer.head_map.values, pooled, rtol=1e-9)
    assert answer.by_prompt["weight"].values.tolist() == [12, 5]
    assert answers(feed(make("distance"), prompts), by_prompt=False)[0].by_prompt is None


def test_kurtosis_is_averaged_over_prompts() -> None:
    """Each prompt has its own kurtosis, whatever its length."""
    answer = answers(feed(make("received"), samples((14, 6))))[0]
    assert answer.by_prompt is not None
    np.testing.assert_allclose(answer.head_map.values, answer.by_prompt.values.mean(0), rtol=1e-9)


def test_beams_give_head_maps_and_refuse_token_maps() -> None:
    """Rows that beams have swapped belong to no one token any more."""
    call = one_layer(0, 4, 2, beams=True)
    assert call.scores is not None
    metric = make("received")
    metric.update(call, attend(call.scores, call.layout, metric.want(call)))
    with pytest.raises(MetricError, match="tokens=False"):
        answers(metric)
    assert reordered(metric)
    assert answers(metric, tokens=False)[0].token_maps == {}
    plain = make("entropy")
    plain.update(call, attend(call.scores, call.layout, plain.want(call)))
    assert np.isfinite(answers(plain)[0].head_map.values).all()


def test_nothing_seen_is_an_error() -> None:
    """A metric that watched no forward has no answer to give."""
    with pytest.raises(MetricError, match="saw no attention"):
        answers(make("entropy"))


def test_the_backends_agree() -> None:
    """The float64 reference and the blocked path give the same answers."""
    prompts = samples((11, 7))
    for spec in ("entropy", "received", "waad", "induction", "effective_keys"):
        a, b = (
            answers(feed(make(spec), prompts, Feeding(pad=1, backend=one)))[0].head_map.values
            for one in ("reference", "torch")
        )
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=spec)


def packed(one: Sample, two: Sample) -> tuple[AttentionCall, ...]:
    """Two prompts packed into one row, told apart by segments."""
    from probe_kernels.mask import same_segment

    n = one.length + two.length
    at = torch.arange(n)[None]
    segment = torch.cat([torch.zeros(one.length), torch.ones(two.length)]).long()[None]
    layout = Layout(Mask((causal(), same_segment())), at, at, segment, segment)
    batch = Batch((0,), 0, torch.cat([one.tokens, two.tokens])[None])

    def joined(name: str, layer: int) -> torch.Tensor:
        return torch.cat([getattr(one, name)[layer], getattr(two, name)[layer]], dim=1)[None]

    calls = []
    for layer in range(2):
        scores = Scores(joined("query", layer), joined("key", layer), joined("value", layer), one.scale)
        calls.append(
            AttentionCall(
                Place(f"l.{layer}", "decoder", layer), batch, "prefill", scores, layout, causal=True
            )
        )
    return tuple(calls)


ROW_SPECS = [
    "entropy", "entropy:normalized=true", "sink", "sink:n=3", "distance", "previous_token", "duplicate_token",
    "duplicate_token:norm=matched", "induction", "induction:norm=matched", "max_prob", "effective_keys",
    "head_output_norm", "value_norm", "waad", "future_influence:lo=1,hi=4",
]  # fmt: skip


@pytest.mark.parametrize("spec", ROW_SPECS)
def test_packed_rows_equal_separate_prompts(spec: str) -> None:
    """Sequences packed into one row and kept apart by the mask answer as the same sequences apart."""
    one, two = samples((9, 7), seed=2)
    metric = make(spec)
    for call in packed(one, two):
        assert call.scores is not None
        metric.update(call, attend(call.scores, call.layout, metric.want(call)))
    apart = answers(feed(make(spec), [one, replace(two, number=1)]))[0].head_map.values
    np.testing.assert_allclose(answers(metric)[0].head_map.values, apart, rtol=1e-5, atol=1e-6)


class Looked(int):
    """A prompt's number that counts how often it is looked up."""

    times = 0

    def __hash__(self) -> int:
        Looked.times += 1
        return super().__hash__()


def test_work_grows_with_prompts_not_with_their_square() -> None:
    """Each prompt's cells are looked up a bounded number of times, however many prompts there are."""
    metric, one = make("distance"), torch.ones(2, dtype=torch.float64)
    metric.cells = {
        CellKey(Looked(number), "decoder", 0): {"total": one, "count": one} for number in range(100)
    }
    Looked.times = 0
    assert answers(metric)[0].by_prompt.sizes["prompt"] == 100
    assert Looked.times <= 40 * 100
