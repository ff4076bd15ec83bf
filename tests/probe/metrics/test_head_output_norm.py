"""‖z W_O‖ uses the model's own output projection, whatever it is called and however it stores its weight."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from probe.errors import MetricError
from probe.metrics import answers, make
from probe.seam.session import Session
from probe.testing import feed, samples

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
}


def llama() -> tuple[nn.Module, list[torch.Tensor]]:
    model = LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=12))
    return model, [layer.self_attn.o_proj.weight for layer in model.layers]


def gpt2() -> tuple[nn.Module, list[torch.Tensor]]:
    model = GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=40, n_positions=64))
    return model, [layer.attn.c_proj.weight.T for layer in model.h]


def bert() -> tuple[nn.Module, list[torch.Tensor]]:
    model = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    return model, [layer.attention.output.dense.weight for layer in model.encoder.layer]


def zs(model: nn.Module, ids: torch.Tensor) -> list[torch.Tensor]:
    """z of each layer, ``[head, query_pos, d_head]``."""
    seen: list[torch.Tensor] = []

    class Watch:
        def want(self, call: object) -> object:
            return make("head_output_norm").want(call)

        def update(self, call: object, attended: object) -> None:
            seen.append(attended.z[0])

    with Session(model, [Watch()]), torch.no_grad():
        model(input_ids=ids)
    return seen


@pytest.mark.parametrize("mode", ["fused", "shadow"])
@pytest.mark.parametrize("build", [llama, gpt2, bert], ids=lambda build: build.__name__)
def test_head_out_uses_the_models_projection(build: object, mode: str) -> None:
    """The norm is that of z through the head's own columns of W_O, and no hook stays behind."""
    torch.manual_seed(0)
    model, weights = build()  # type: ignore[operator]
    model = model.eval()
    ids = torch.arange(11)[None]
    metric = make("head_output_norm:of=head_out")
    hooks = sum(len(one._forward_hooks) for one in model.modules())
    with Session(model, [metric], mode=mode), torch.no_grad():
        model(input_ids=ids)
    assert sum(len(one._forward_hooks) for one in model.modules()) == hooks
    found = answers(metric)[0].head_map.values
    for layer, (z, weight) in enumerate(zip(zs(model, ids), weights, strict=True)):
        parts = weight.detach().reshape(weight.shape[0], 4, -1).double()
        out = torch.einsum("hqd,mhd->hqm", z.double(), parts)
        np.testing.assert_allclose(found[layer], out.norm(dim=-1).mean(-1).numpy(), rtol=1e-4)


def test_without_the_model_it_is_refused() -> None:
    """W_O is in the model; without it the error says what to do."""
    with pytest.raises(MetricError, match="of=z"):
        feed(make("head_output_norm:of=head_out"), samples((5,)))
