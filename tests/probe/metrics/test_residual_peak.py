"""Residual peaks and massive activations of a model's own residual stream."""

import numpy as np
import pytest
import torch
from small_models import llama

from probe.errors import MetricError, UnknownNameError, UsageError
from probe.interventions.sink_tokens import ratios
from probe.metrics import answers, make
from probe.seam.session import Session

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4]])


def run(*specs: str, spans: dict | None = None, first: float = 1.0) -> tuple[list, list[torch.Tensor]]:
    """Answers of each metric on a model whose first token's embedding is `first` times as long, and its residuals."""
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[int(IDS[0, 0])] *= first
        metrics = [make(spec) for spec in specs]
        with Session(model, metrics) as session:
            session.announce([spans or {}])
            model(IDS)
        states = model(IDS, output_hidden_states=True).hidden_states
    return [answers(one)[0] for one in metrics], [one[0].double() for one in states]


def test_equals_the_residual_stream_itself() -> None:
    """Each layer's ratio is that of the norms of the states that transformers returns, and the map holds them."""
    (mean, largest), states = run("residual_peak", "residual_peak:over=max", first=30.0)
    for layer in range(2):
        norm = states[layer].norm(dim=-1)
        assert float(mean.head_map[layer]) == pytest.approx(float(norm[0] / norm[1:].mean()), rel=1e-4)
        assert float(largest.head_map[layer]) == pytest.approx(float(norm[0] / norm[1:].max()), rel=1e-4)
        np.testing.assert_allclose(mean.token_maps[0].values[layer], norm, rtol=1e-4)
    # Token 4 is the same word as token 0, so without the maximum the ratio tells more than with it.
    assert float(mean.head_map[0]) > float(largest.head_map[0])


def test_the_output_of_a_layer_is_the_input_of_the_next() -> None:
    """`resid_post` of layer 0 is `resid_pre` of layer 1."""
    (before, after), _ = run("residual_peak", "residual_peak:point=resid_post")
    assert float(after.head_map[0]) == pytest.approx(float(before.head_map[1]), rel=1e-6)


def test_a_span_names_the_token() -> None:
    """The span's first token is held against all the others; an empty one is undefined, an unknown one refused."""
    spans = {"stop": torch.arange(9) >= 3, "none": torch.zeros(9, dtype=torch.bool)}
    (stop, none), states = run("residual_peak:span=stop", "residual_peak:span=none", spans=spans)
    norm = states[0].norm(dim=-1)
    others = torch.cat([norm[:3], norm[4:]])
    assert float(stop.head_map[0]) == pytest.approx(float(norm[3] / others.mean()), rel=1e-4)
    assert np.isnan(none.head_map.values).all()
    with pytest.raises(UnknownNameError, match="'stop'"):
        run("residual_peak:span=stopp", spans=spans)


def test_spans_that_nobody_named_are_not_applicable() -> None:
    """Without announced spans there is a reason, and no number."""
    model, metric = llama(), make("residual_peak:span=stop")
    with Session(model, [metric]), torch.no_grad():
        model(IDS)
    answer = answers(metric)[0]
    assert np.isnan(answer.head_map.values).all()
    assert any("not applicable" in line for line in answer.notes)


def test_massive_activations_are_the_ratios_of_the_stream() -> None:
    """φ per token equals max |x_d| / RMS over the dimensions asked, and sinks are counted at tau."""
    (every, some), states = run("massive_activation:tau=2.5", "massive_activation:dims=3+7,tau=1")
    for layer in range(2):
        ratio = ratios(states[layer])
        np.testing.assert_allclose(every.token_maps[0].values[layer], ratio.amax(-1), rtol=1e-4)
        np.testing.assert_allclose(some.token_maps[0].values[layer], ratio[:, [3, 7]].amax(-1), rtol=1e-4)
        assert float(every.head_map[layer]) == pytest.approx(float(ratio.max()), rel=1e-4)
        assert float(every.extra["sink_tokens"][layer]) == int((ratio.amax(-1) >= 2.5).sum())


@pytest.mark.parametrize(
    "spec", ["massive_activation:dims=a", "massive_activation:tau=0", "residual_peak:over=min"]
)
def test_bad_parameters_are_refused(spec: str) -> None:
    """Dimensions that are no numbers, a threshold of 0, a mean that is none."""
    with pytest.raises(UsageError):
        make(spec)


def test_a_dimension_beyond_the_width_is_refused() -> None:
    """The error says how many there are."""
    with pytest.raises(MetricError, match="32 dimensions"):
        run("massive_activation:dims=99")
