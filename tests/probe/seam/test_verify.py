"""Verification passes on sound models and fails loudly on each of its three promises."""

import pytest
import tiny
import torch

from probe.errors import CaptureError, ModelError
from probe.seam import Session, verify


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, tiny.gpt_oss])
def test_sound_models_pass(make):
    """Outputs agree, rows sum to one less sink mass, an edit moves the output."""
    proof = verify(make())
    assert proof.mode == "fused"
    assert proof.layers == proof.seen == 2
    assert proof.logit_drift < 1e-5
    assert proof.row_sum_error < 1e-5
    assert proof.edit_moves > 1e-3


def test_inputs_may_be_given():
    """Encoder-decoders need more than input ids."""
    proof = verify(tiny.t5(), {"input_ids": tiny.tokens(), "decoder_input_ids": tiny.tokens(2, 5)})
    assert proof.seen == 6


def test_it_is_done_once_per_model(monkeypatch):
    """The second call answers from memory, unless asked again."""
    model = tiny.llama()
    first = verify(model)
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: pytest.fail("the model was run again"))
    assert verify(model) is first


def test_an_output_that_differs_is_an_error():
    """A model that does something after attention that the seam cannot know is refused by name."""
    model = tiny.llama()

    def drift(module, args, output):
        if module.config._attn_implementation == "probe":
            return (output[0] + 0.5, *output[1:])
        return output

    model.model.layers[0].self_attn.register_forward_hook(drift)
    with pytest.raises(CaptureError, match="differs from its own"):
        verify(model)


def test_an_edit_that_changes_nothing_is_an_error():
    """If the output projection ignores z, an intervention could not take effect."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[-1].self_attn.o_proj.weight.zero_()
    with pytest.raises(CaptureError, match="do not take effect"):
        verify(model)


def test_an_output_that_is_not_finite_names_the_first_layer():
    """Weights that are finite but overflow are the model's fault, not the seam's."""
    model = tiny.llama()
    with torch.no_grad():
        for projection in (model.model.layers[1].self_attn.q_proj, model.model.layers[1].self_attn.k_proj):
            projection.weight.fill_(1e30)
    with pytest.raises(ModelError, match=r"from the attention of layer 1 \(model.layers.1.self_attn\) on"):
        verify(model)


def test_every_module_keeps_its_own_training_mode():
    """A model whose frozen parts evaluate while the rest trains is left exactly so."""
    model = tiny.llama().train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    verify(model)
    assert [module.training for module in model.modules()] == before


def test_the_drift_is_that_of_the_logits_themselves():
    """Large logits are judged by their size, but the drift that is reported is not divided by it."""
    model, ids = tiny.llama(), torch.arange(1, 17)[None]
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
        native = model(ids).logits
        with Session(model, mode="fused"):
            ours = model(ids).logits
    proof = verify(model)
    assert proof.logit_drift == pytest.approx(float((ours - native).abs().max()))
    assert proof.logit_drift > 1e-3
    assert proof.output_size == pytest.approx(float(native.abs().max()))
