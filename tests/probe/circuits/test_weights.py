"""Weights of heads, read off what attention does: they say what the model says, in every shape of block."""

from collections.abc import Callable
from typing import Any

import pytest
import small_models
import tiny
import torch
from decoders import EXPERTS, GROUPED, SIZES, rough
from support_pairs import random_pairs
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from probe.circuits.batches import Batch
from probe.circuits.engine import engine
from probe.circuits.weights import head_weights
from probe.errors import CaptureError
from probe.models import as_loaded

PLAIN: dict[str, Callable[[], Any]] = {
    "grouped": tiny.llama,
    "norms behind and inside": tiny.gemma3,
    "mean taken": small_models.gpt2,
    "parallel": lambda: rough(GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES), biased=False),
    "scaled": lambda: rough(
        GraniteForCausalLM, GraniteConfig(**SIZES, residual_multiplier=0.3), biased=False
    ),
    "no norm in front": lambda: rough(Olmo2ForCausalLM, Olmo2Config(**SIZES), biased=False),
}


def _alone(model: Any) -> tuple[Any, dict[str, Any]]:
    """Tokens by themselves: each attends to itself alone, at position 0."""
    loaded = as_loaded((model, None))
    vocab = int(model.get_output_embeddings().weight.shape[0])
    pairs = tuple(random_pairs(vocab, 6, 2))
    with engine(loaded) as running:
        ids = Batch(tuple(range(6)), pairs)
        trace = running.record(ids, "clean", ["resid_pre", "attn_out", "q", "k", "v"])
        return loaded, {
            name: [trace.value(name, layer)[:, :, 0] for layer in range(2)]
            for name in ("resid_pre", "attn_out", "q", "k", "v")
        }


@pytest.mark.parametrize("name", PLAIN)
def test_they_say_what_attention_does_up_to_norms_scales(name: str) -> None:
    """Queries, keys and what is added to the stream point where the weights say, for every token and head."""
    loaded, seen = _alone(PLAIN[name]())
    for layer, heads in head_weights(loaded).items():
        stream = seen["resid_pre"][layer][:, 0]
        groups = len(heads.w_k) // seen["k"][layer].shape[1]
        wanted = {
            "q": torch.einsum("pm,hmd->phd", stream, heads.w_q),
            "k": torch.einsum("pm,hmd->phd", stream, heads.w_k)[:, ::groups],
            "attn_out": torch.einsum("pm,hmv,hvn->pn", stream, heads.w_v, heads.w_o)[:, None],
        }
        for part, value in wanted.items():
            same = torch.cosine_similarity(value, seen[part][layer], dim=-1)
            assert float(same.min()) > 1 - 1e-4, part


def test_they_are_the_parameters() -> None:
    """Where a module holds a map as a matrix, it is that matrix with the gain of the norm before it."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight.uniform_(0.5, 2.0)
    heads = head_weights(as_loaded((model, None)))[1]
    own = model.model.layers[1]
    gain = own.input_layernorm.weight[:, None]
    for made, module in ((heads.w_q, own.self_attn.q_proj), (heads.w_k[::2], own.self_attn.k_proj)):
        torch.testing.assert_close(made, (gain * module.weight.T).unflatten(1, (-1, 8)).transpose(0, 1))
    torch.testing.assert_close(heads.w_o, own.self_attn.o_proj.weight.T.unflatten(0, (4, 8)))


def test_norms_of_queries_are_said() -> None:
    """Weights whose queries pass a norm of their own say so."""
    assert head_weights(as_loaded((tiny.gemma3(), None)))[0].normed
    assert not head_weights(as_loaded((tiny.llama(), None)))[0].normed


def test_gated_attention_has_weights() -> None:
    """A gate that is computed beside the queries is not taken for one of them."""
    config = Qwen3NextConfig(**SIZES, **EXPERTS, **GROUPED, layer_types=["full_attention", "full_attention"])
    model = rough(Qwen3NextForCausalLM, config, biased=False)
    loaded, seen = _alone(model)
    heads = head_weights(loaded)[0]
    wanted = torch.einsum("pm,hmd->phd", seen["resid_pre"][0][:, 0], heads.w_q)
    assert float(torch.cosine_similarity(wanted, seen["q"][0], dim=-1).min()) > 1 - 1e-4


def test_what_is_not_linear_is_refused() -> None:
    """Queries that are no linear map of what attention is given have no weights."""
    model = tiny.llama()
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda _module, _args, output: output.abs())
    with pytest.raises(CaptureError, match="not linear"):
        head_weights(as_loaded((model, None)))


def test_attention_behind_something_else_is_refused() -> None:
    """What attention reads must be the stream or a norm of it."""
    model = tiny.llama()
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _module, args, kwargs: (
            args,
            {**kwargs, "hidden_states": kwargs["hidden_states"].roll(1, -1)},
        ),
        with_kwargs=True,
    )
    with pytest.raises(CaptureError, match="neither the stream nor a norm"):
        head_weights(as_loaded((model, None)))
