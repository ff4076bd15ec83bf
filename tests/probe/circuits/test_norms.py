"""A norm as a linear map, read off its answers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from probe.circuits.norms import norm_of
from probe.errors import CaptureError

WIDTH = 12


def made(kind: str, seed: int = 0) -> nn.Module:
    """A norm with weights that are not those of its birth."""
    torch.manual_seed(seed)
    module = {
        "llama": lambda: LlamaRMSNorm(WIDTH),
        "gemma": lambda: Gemma3RMSNorm(WIDTH),
        "layer": lambda: nn.LayerNorm(WIDTH),
        "plain": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
        "torch": lambda: nn.RMSNorm(WIDTH),
    }[kind]()
    with torch.no_grad():
        for one in module.parameters():
            one.copy_(torch.randn(WIDTH))
    return module.double()


KINDS = ("llama", "gemma", "layer", "plain", "torch")


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 50))
def test_parts_sum_to_the_answer(kind: str, seed: int) -> None:
    """Whatever an input is split into, the parts and the bias sum to what the norm answers."""
    module = made(kind, seed)
    norm = norm_of(module, WIDTH)
    assert norm is not None
    parts = torch.randn(3, 2, 5, WIDTH, dtype=torch.float64)
    x = parts.sum(0)
    y = module(x)
    whole = norm.part(parts, norm.rate(x, y)).sum(0) + norm.bias
    assert torch.allclose(whole, y, atol=2e-5)


def test_only_layer_norms_subtract_the_mean() -> None:
    """Read off, not known from the class."""
    found = {kind: norm_of(made(kind), WIDTH) for kind in KINDS}
    assert {kind for kind, norm in found.items() if norm is not None and norm.centres} == {"layer", "plain"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_held_answer_is_the_answer_and_its_gradient_that_of_a_linear_map(kind: str) -> None:
    """The LN rule: the scale is a constant of the backward pass, so the input times its gradient is the answer."""
    module = made(kind)
    norm = norm_of(module, WIDTH)
    assert norm is not None
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    held = norm.held(x, module(x))
    assert torch.equal(held, module(x))
    (gradient,) = torch.autograd.grad(held[0, 2, 5], x)
    assert float((x * gradient).detach().sum()) == pytest.approx(
        float((held[0, 2, 5] - norm.bias[5]).detach()), abs=2e-5
    )
    (own,) = torch.autograd.grad(module(x)[0, 2, 5], x)
    assert not torch.allclose(own, gradient, atol=1e-3)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Identity(), nn.Sequential(nn.LayerNorm(WIDTH)), nn.LayerNorm(5),
        nn.Softmax(-1), nn.Sigmoid(), nn.Embedding(4, WIDTH), nn.Dropout(0.5), nn.Tanh(),
    ],
)  # fmt: skip
def test_what_is_no_norm_is_not_taken_for_one(module: nn.Module) -> None:
    """Linear maps, activations (bounded ones answer long inputs alike), containers and norms of another width."""
    assert norm_of(module.eval(), WIDTH) is None


def test_an_answer_that_is_none_of_a_norm_is_refused() -> None:
    """The rate is read off an answer only where that answer is the input scaled."""
    norm = norm_of(made("llama"), WIDTH)
    assert norm is not None
    x = torch.randn(1, 3, WIDTH, dtype=torch.float64)
    with pytest.raises(CaptureError, match="taken for a norm"):
        norm.rate(x, torch.randn_like(x))
