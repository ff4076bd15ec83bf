"""Value drains of planted values, through W_O, and at named spans."""

import numpy as np
import pytest
import torch
from small_models import gpt2, llama

from probe.errors import MetricError, UnknownNameError
from probe.metrics import answers, make
from probe.seam.session import Session
from probe.testing import feed, on_pattern, samples

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4]])
VALUES = torch.tensor([[[0.3, 0.4], [3.0, 4.0], [3.0, 4.0], [0.0, 20.0]]])  # norms 0.5, 5, 5, 20


def test_planted_drain() -> None:
    """0.5 over the mean of 5, 5 and 20; at the span the token of norm 20 over that of the others."""
    spans = {"end": [False, False, False, True]}
    assert on_pattern(make("value_drain"), torch.ones(1, 4, 4), values=VALUES)[0] == pytest.approx(0.05)
    found = on_pattern(make("value_drain:span=end"), torch.ones(1, 4, 4), spans=spans, values=VALUES)
    assert found[0] == pytest.approx(20 / 3.5)


def test_where_there_is_nothing_to_compare_it_is_undefined() -> None:
    """One token, or an empty span."""
    assert np.isnan(on_pattern(make("value_drain"), torch.ones(1, 1, 1))[0])
    spans = {"none": [False] * 4}
    assert np.isnan(on_pattern(make("value_drain:span=none"), torch.ones(1, 4, 4), spans=spans)[0])


def test_an_unknown_span_is_refused() -> None:
    """A name that the prompt does not have is an error with the nearest name."""
    with pytest.raises(UnknownNameError, match=r"prompt 0.*'middel'.*'middle'"):
        feed(make("value_drain:span=middel"), samples((6,)))


@pytest.mark.parametrize("build", [llama, gpt2], ids=lambda build: build.__name__)
@pytest.mark.parametrize("mode", ["fused", "shadow"])
def test_through_the_output_projection(build: object, mode: str) -> None:
    """‖v W_O‖ takes each head's own slice of W_O and the value that its group shares."""
    model = build()  # type: ignore[operator]
    metric, norms, values = make("value_drain:of=head_out"), make("value_norm:of=head_out"), {}

    class Watch:
        def want(self, call: object) -> object:
            return make("value_norm").want(call)

        def update(self, call: object, attended: object) -> None:
            values[call.place.layer] = call.scores.value[0]  # type: ignore[attr-defined]

    with Session(model, [metric, norms, Watch()], mode=mode), torch.no_grad():
        model(IDS)
    drain, mean = answers(metric)[0].head_map.values, answers(norms)[0].head_map.values
    for layer, v in values.items():
        v = v.double().repeat_interleave(4 // v.shape[0], 0)
        if build is llama:
            weight = model.model.layers[layer].self_attn.o_proj.weight.detach().T
        else:
            weight = model.transformer.h[layer].attn.c_proj.weight.detach()
        out = torch.einsum("hnd,hdm->hnm", v, weight.double().unflatten(0, (4, -1))).norm(dim=-1)
        np.testing.assert_allclose(drain[layer], (out[:, 0] / out[:, 1:].mean(1)).numpy(), rtol=1e-4)
        np.testing.assert_allclose(mean[layer], out.mean(1).numpy(), rtol=1e-4)


def test_without_the_model_the_projection_is_refused() -> None:
    """W_O is in the model; without it the error says what to do."""
    with pytest.raises(MetricError, match="of=value"):
        feed(make("value_drain:of=head_out"), samples((5,)))
