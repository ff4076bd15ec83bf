"""A model is verified where it is first edited or observed by our kernel, and reports carry the drift."""

import pytest
import torch
from small_models import llama, t5

import probe
from probe.errors import CaptureError
from probe.seam.verify import verified

IDS = torch.tensor([[5, 9, 3, 7, 9, 3]])


def test_the_first_edit_verifies_the_model():
    """Once; the second edit finds it done."""
    model = llama()
    assert verified(model) is None
    with probe.edit(model, [probe.interventions.zero(layers=[0])]):
        first = verified(model)
    assert first is not None
    with probe.edit(model, [probe.interventions.zero(layers=[0])]):
        assert verified(model) is first


def test_a_model_whose_edits_would_do_nothing_is_refused():
    """Before any number is taken from it."""
    model = llama()
    with torch.no_grad():
        model.model.layers[-1].self_attn.o_proj.weight.zero_()
    with (
        pytest.raises(CaptureError, match="do not take effect"),
        probe.edit(model, [probe.interventions.zero()]),
    ):
        pass


@pytest.mark.parametrize("mode", ["shadow", "fused"])
def test_reports_of_observations_carry_the_drift(mode):
    """Nothing in shadow, the verified drift in fused."""
    model = llama()
    with torch.no_grad(), probe.observe(model, metrics=["entropy"], mode=mode) as run:
        model(IDS)
    drift = run.report().provenance.logit_drift
    assert drift == (0.0 if mode == "shadow" else verified(model).logit_drift)


def test_a_model_that_needs_more_than_tokens_waits_for_its_inputs():
    """An encoder-decoder cannot be verified on token ids alone, and is not called wrongly."""
    model = t5()
    with torch.no_grad(), probe.observe(model, metrics=["entropy"], mode="fused") as run:
        model(input_ids=IDS, decoder_input_ids=IDS)
    assert verified(model) is None
    assert run.report().provenance.logit_drift is None


def test_an_experiment_alone_says_what_it_ran():
    """Tokens, prompts and mode of a report are never those of nothing."""
    from probe.metrics import MetricInfo

    class Looks:
        info = MetricInfo("looks", "Nothing.", "nats", "high", "", "")
        spec = "looks"

        def run(self, ask):
            """Run two prompts."""
            with torch.no_grad():
                ask.model.model(IDS)
                ask.model.model(IDS)
            return []

    provenance = probe.analyze(llama(), {"input_ids": IDS}, metrics=[Looks()]).provenance
    assert (provenance.tokens, provenance.prompts, provenance.mode) == (12, 2, "shadow")
