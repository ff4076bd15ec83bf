"""Where a metric means nothing it says so, and gives no number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from probe_kernels import attend
from probe_kernels.mask import Mask, causal
from probe_kernels.types import Attended, Layout, Scores

from probe.errors import MetricError, UnknownNameError
from probe.metrics import answers, make
from probe.metrics.base import FoldMetric
from probe.seam.call import AttentionCall, Batch, Place

CAUSAL_ONLY = {"future_influence", "waad", "local_global", "duplicate_token", "induction"}
POSITIONS = {"distance", "previous_token", "sink_logit_gap"}
VALUES = {"value_norm", "head_output_norm", "value_drain", "sink_logit_gap"}
ALL = [
    "entropy", "sink", "received", "future_influence", "waad", "distance", "local_global", "previous_token",
    "duplicate_token", "induction", "max_prob", "effective_keys", "span_mass:span=all", "head_output_norm",
    "value_norm", "key_mass", "sink_heads", "sink_logit_gap", "column_entropy", "value_drain",
]  # fmt: skip


def call(
    tower: str = "decoder", *, is_causal: bool = True, tokens: bool = True, n: int = 12
) -> AttentionCall:
    torch.manual_seed(0)
    scores = Scores(torch.randn(1, 4, n, 8), torch.randn(1, 2, n, 8), torch.randn(1, 2, n, 6), 0.3)
    layout = Layout(Mask((causal(),)) if is_causal else Mask(), torch.arange(n)[None], torch.arange(n)[None])
    ids = torch.arange(n)[None] % 5 if tokens else None
    batch = Batch((0,), 0, ids, None, ({"all": torch.ones(4, dtype=torch.bool)},))
    return AttentionCall(Place(f"{tower}.0", tower, 0), batch, "prefill", scores, layout, is_causal)


def watch(metric: FoldMetric, seen: AttentionCall) -> FoldMetric:
    if seen.scores is None:
        metric.update(seen, Attended())
    else:
        metric.update(seen, attend(seen.scores, seen.layout, metric.want(seen)))
    return metric


def applies(spec: str, seen: AttentionCall) -> bool:
    answer = answers(watch(make(spec), seen))[0]
    assert answer.head_map.shape == (1, 4)
    silent = bool(np.isnan(answer.head_map.values).all())
    assert silent == any("not applicable" in line for line in answer.notes)
    return not silent


@pytest.mark.parametrize("spec", ALL)
def test_bidirectional_attention(spec: str) -> None:
    """Metrics of causal attention are silent about an encoder; all others speak."""
    expected = spec not in CAUSAL_ONLY
    assert applies(spec, call("encoder", is_causal=False)) == expected


@pytest.mark.parametrize("spec", ALL)
def test_cross_attention(spec: str) -> None:
    """Metrics that compare positions or tokens of query and key are silent about cross-attention."""
    expected = spec not in CAUSAL_ONLY | POSITIONS | {"span_mass:span=all"}
    assert applies(spec, call("cross", is_causal=False)) == expected


@pytest.mark.parametrize("spec", ALL)
def test_embeddings_in_place_of_tokens(spec: str) -> None:
    """Metrics of token ids are silent where the model was given none, and say why."""
    expected = spec not in {"duplicate_token", "induction", "span_mass:span=all"}
    assert applies(spec, call(tokens=False)) == expected
    if not expected:
        notes = answers(watch(make(spec), call(tokens=False)))[0].notes
        assert any("no token ids" in line for line in notes)


@pytest.mark.parametrize("spec", sorted(VALUES))
def test_weights_alone(spec: str) -> None:
    """Metrics of values are silent where the model gave only its weights."""
    eager = replace(call(), scores=None, pattern=torch.ones(1, 4, 12, 12) / 12)
    assert not applies(spec, eager)


def test_a_silent_metric_asks_for_nothing() -> None:
    """What does not apply costs nothing."""
    want = make("waad").want(call("encoder", is_causal=False))
    assert not want.offsets
    assert not want.z


def test_notes_name_the_silent_tower_and_the_other_tower_answers() -> None:
    """A model with both towers gives one answer for each; only the encoder's is empty."""
    metric = make("induction")
    watch(metric, call("encoder", is_causal=False))
    watch(metric, call("decoder"))
    by_tower = {one.tower: one for one in answers(metric)}
    assert np.isnan(by_tower["encoder"].head_map.values).all()
    assert "encoder" in by_tower["encoder"].notes[0]
    assert np.isfinite(by_tower["decoder"].head_map.values).all()


def test_an_unknown_span_is_refused_with_the_nearest() -> None:
    """A span that the prompt does not have is an error, not an empty span."""
    with pytest.raises(UnknownNameError, match=r"prompt 0.*span 'al'.*'all'"):
        watch(make("span_mass:span=al"), call())


def test_unknown_spans_are_not_empty_spans() -> None:
    """Where nobody said what the spans are (generated text, a decoder beside an encoder), the metric is silent."""
    seen = call()
    assert not applies("span_mass:span=all", replace(seen, batch=replace(seen.batch, spans=())))


def test_two_metrics_of_one_spec_watch_together() -> None:
    """Nested observations may ask for the same metric; their wants do not collide."""
    seen = call()
    for spec in ("induction", "span_mass:span=all", "waad"):
        one, other = make(spec), make(spec)
        want = one.want(seen) | other.want(seen)
        assert len(want.matches) in (0, 2)


def test_nan_is_refused_with_the_layer() -> None:
    """NaN in the activations is an error that names the module, never a silent gap."""
    bad = call()
    assert bad.scores is not None
    bad.scores.query[0, 1, 3] = torch.nan
    with pytest.raises(MetricError, match=r"layer 0 \(decoder\.0\)"):
        watch(make("entropy"), bad)
