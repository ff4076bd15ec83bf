"""A second model of the same configuration: other weights, everything else alike, and the first one left alone."""

import pytest
import torch
from small_models import bert, gpt2, letters, llama, t5, vit
from torch import nn

from probe.errors import UsageError
from probe.models import as_loaded
from probe.models.untrained import check_buildable, untrained


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [llama, gpt2, bert, t5, vit])
def test_weights_alone_are_new(make) -> None:
    """Same class, names, shapes and tokenizer; the matrices are others, and the given model is as it was."""
    loaded = as_loaded((make(), letters()))
    before = weights(loaded.model)
    made = untrained(loaded, seed=3)
    new = weights(made.model)
    assert type(made.model) is type(loaded.model)
    assert not made.model.training
    assert made.tokenizer is loaded.tokenizer
    assert made.name.endswith("(untrained)")
    for name, value in before.items():
        assert new[name].shape == value.shape
        assert torch.equal(value, loaded.model.state_dict()[name])
    assert all(not torch.equal(new[name], v) for name, v in before.items() if v.ndim == 2 and v.numel() > 64)


def test_seed_decides_and_torch_is_left_alone() -> None:
    """The same seed gives the same weights, another others; torch's own generator goes on where it was."""
    loaded = as_loaded(llama())
    state = torch.get_rng_state()
    one, same, other = (weights(untrained(loaded, seed).model) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_dtypes_and_ties_are_kept() -> None:
    """Parameters take the widths of the given model's, buffers stay as built, tied weights stay one."""
    model = llama(tie_word_embeddings=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    made = untrained(as_loaded(model)).model
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in made.buffers()} == {b.dtype for b in model.buffers()} == {torch.float32}
    assert made.lm_head.weight is made.model.embed_tokens.weight


def adapted() -> nn.Module:
    model = llama()
    model.model.layers[0].self_attn.adapter = nn.Linear(4, 4)
    return model


def quantised() -> nn.Module:
    model = llama()
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    return model


class Fragile(nn.Module):
    """Has a configuration, and cannot be built from it."""

    def __init__(self, config: object, size: int) -> None:
        super().__init__()
        self.config, self.inner = config, nn.Linear(size, size)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Linear(3, 3), "no configuration"),
        (adapted(), "adapter.weight"),
        (quantised(), "quantised"),
        (llama().to("meta"), "meta"),
        (Fragile({}, 3), "Fragile.config. failed"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(model: nn.Module, reason: str) -> None:
    """The error says what stands in the way, before any weights are made."""
    with pytest.raises(UsageError, match=reason):
        check_buildable(as_loaded(model))
    with pytest.raises(UsageError, match=reason):
        untrained(as_loaded(model))
