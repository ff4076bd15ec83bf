"""Models in bfloat16 and float16: rounding may be larger than what a part adds, and nothing may be mistaken for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from support_pairs import random_pairs
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from probe.circuits import edge_attribution, logit_attribution, relp
from probe.circuits.anatomy import Anatomy, anatomy_of
from probe.circuits.calls import same
from probe.circuits.norms import norm_of
from probe.errors import CaptureError
from probe.models import as_loaded
from probe.report import Report

HALF = (torch.bfloat16, torch.float16)


def neox() -> Any:
    """Attention and MLP read the same stream."""
    return tiny._make(GPTNeoXForCausalLM, GPTNeoXConfig(**tiny.SMALL, **tiny.IDS))


def granite(times: float = 0.22) -> Any:
    """What is added is multiplied by a constant, and so are logits."""
    config = GraniteConfig(**tiny.SMALL, **tiny.IDS, residual_multiplier=times, logits_scaling=3.0)
    return tiny._make(GraniteForCausalLM, config)


def quiet_gemma2() -> Any:
    """Logits are capped, but far too small for the cap to be seen in them."""
    shape = {"num_key_value_heads": 2, "head_dim": 8}
    model = Gemma2ForCausalLM(Gemma2Config(**tiny.SMALL, **tiny.IDS, **shape)).eval()
    with torch.no_grad():
        assert float(model(input_ids=tiny.tokens()).logits.abs().max()) < 2
    return model


MAKERS = (tiny.llama, tiny.gemma3, tiny.gpt_oss, small_models.gpt2, neox, granite, quiet_gemma2)


def told(anatomy: Anatomy) -> tuple[Any, ...]:
    """All that was found, as names and numbers."""
    blocks = [
        (
            one.attn and (one.attn.name, one.attn.times),
            one.mlp and (one.mlp.name, one.mlp.times),
            one.parallel,
            one.projection and one.projection.name,
            one.post is not None,
        )
        for one in anatomy.blocks
    ]
    return (
        [
            (a and (a[0], pytest.approx(a[1], rel=1e-3)), m and (m[0], pytest.approx(m[1], rel=1e-3)), *rest)
            for a, m, *rest in blocks
        ],
        anatomy.final is not None,
        anatomy.scale and pytest.approx(anatomy.scale, rel=1e-3),
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("make", MAKERS, ids=lambda one: one.__name__)
def test_the_same_is_found_as_in_float32(make: Callable[[], Any], dtype: torch.dtype) -> None:
    """Writers and their constants, norms, W_O and the scale of logits, or that there is none."""
    full, low = anatomy_of(as_loaded(make())), anatomy_of(as_loaded(make().to(dtype)))
    assert told(low) == told(full)
    assert low.final is not None
    assert full.final is not None
    assert torch.allclose(low.final.gain, full.final.gain, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("times", [0.5, 0.263, 1 / 3, 0.70710678, 0.0123456])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_constant_is_right_or_refused(times: float, dtype: torch.dtype) -> None:
    """Half precision does not say every digit: none is made up."""
    anatomy = anatomy_of(as_loaded(granite(times).to(dtype)))
    for layer in (0, 1):
        for part in ("attn_out", "mlp_out"):
            try:
                assert anatomy.writer(layer, part).times == pytest.approx(times, rel=2e-3)
            except CaptureError as error:
                assert "no sum of its input" in str(error)  # noqa: PT017


METHODS: dict[str, Callable[[Any], Report]] = {
    "relp": lambda model: relp(model, random_pairs(50), "z", min_accuracy=0.0),
    "edges": lambda model: edge_attribution(model, random_pairs(50), min_accuracy=0.0),
    "direct": lambda model: logit_attribution(model, random_pairs(50), min_accuracy=0.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_scores_are_those_of_the_same_weights_in_float32(make: Callable[[], Any], method: str) -> None:
    """To a few percent of the largest; norms held, heads told behind them."""
    low, full = (
        METHODS[method]((model, None)).answers[0].head_map.values
        for model in (make().to(torch.bfloat16), make().to(torch.bfloat16).float())
    )
    assert np.abs(low - full).max() < 0.05 * np.abs(full).max()
    assert np.corrcoef(low.ravel(), full.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm, nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@given(seed=st.integers(0, 50))
def test_norms_are_read_in_float32(kind: type[nn.Module], dtype: torch.dtype, seed: int) -> None:
    """Gain and bias are those of the weights; parts sum to the answer up to its own rounding; gradients pass."""
    torch.manual_seed(seed)
    module = kind(12)
    with torch.no_grad():
        for one in module.parameters():
            one.copy_(torch.randn(12))
    module = module.to(dtype)
    norm, precise = norm_of(module, 12), norm_of(module.float(), 12)
    module = module.to(dtype)
    assert norm is not None
    assert precise is not None
    assert torch.equal(norm.gain, precise.gain)
    assert torch.equal(norm.bias, precise.bias)
    parts = torch.randn(3, 2, 5, 12)
    x = parts.sum(0).to(dtype)
    y = module(x).detach()
    whole = norm.part(x, norm.rate(x, y)) + norm.bias
    eps = torch.finfo(dtype).eps
    assert torch.allclose(whole, y.float(), rtol=4 * eps, atol=4 * eps * float(y.abs().max()))
    given_ = x.requires_grad_()
    held = norm.held(given_, module(given_))
    assert torch.equal(held, y)
    assert held.dtype == dtype
    held.sum().backward()
    assert given_.grad is not None


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_an_answer_that_is_none_of_a_norm_is_refused(dtype: torch.dtype) -> None:
    """Rounding is allowed for, another answer is not."""
    module = LlamaRMSNorm(12).to(dtype)
    norm = norm_of(module, 12)
    assert norm is not None
    x = torch.randn(1, 3, 12, dtype=dtype)
    with pytest.raises(CaptureError, match="taken for a norm"):
        norm.rate(x, module(x) + 0.2 * torch.randn_like(x))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_what_a_small_part_added_to_is_another_stream(dtype: torch.dtype) -> None:
    """One entry off by its last digit is enough; in float32 that is what adding in another order does."""
    one = torch.randn(1, 5, 8, dtype=dtype)
    other = one.clone()
    other[0, 0, 0] *= 1 + 2 * torch.finfo(dtype).eps
    assert same(one, one.clone())
    assert not same(one, other)
    full = one.float()
    assert same(full, full * (1 + torch.finfo(torch.float32).eps))
