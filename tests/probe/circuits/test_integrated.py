"""Integrated gradients: complete at the entrance, whatever lies between."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs

from probe.circuits import CircuitOptions, attribution_patching, integrated_gradients
from probe.circuits.integrated import between, integrate
from probe.circuits.study import study
from probe.circuits.where import Where
from probe.errors import UsageError

FREE: dict[str, Any] = {"min_accuracy": 0.0}


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, small_models.gpt2])
def test_the_entrance_carries_everything(make: Any) -> None:
    """Per pair, the scores of the stream entering block 0 come to clean minus corrupt; the error falls with steps."""
    errors = []
    with study((make().double(), None), random_pairs(50), CircuitOptions(**FREE)) as case:
        for steps in (4, 32):
            found = integrate(case, ["resid_pre"], Where.of("tokens", case.pairs), steps, [0])["resid_pre"]
            total = found.scores[0].sum((0, 1))
            errors.append(float((total - (case.clean - case.corrupt) / case.gap).abs().max()))
    assert errors[1] < 1e-2
    assert errors[1] < errors[0] / 4


def test_one_step_looks_from_the_middle() -> None:
    """Its only run has the mean of both prompts' streams; the ends of the way are the prompts themselves."""
    with study((tiny.llama(), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        (batch,) = case.batches
        clean, corrupt = (case.engine.record(batch, side, ["resid_pre"]) for side in ("clean", "corrupt"))
        (only,) = between(clean, corrupt, 1)
        middle = (clean.value("resid_pre", 0) + corrupt.value("resid_pre", 0)) / 2
        assert torch.allclose(only["resid_pre", 0].source, middle)
        near = [one["resid_pre", 0].source for one in between(clean, corrupt, 1000)]
        assert torch.allclose(near[0], corrupt.value("resid_pre", 0), atol=1e-2)
        assert torch.allclose(near[-1], clean.value("resid_pre", 0), atol=1e-2)


@given(seed=st.integers(0, 200))
@settings(max_examples=3)
def test_it_has_no_direction(seed: int) -> None:
    """Pairs and swapped pairs have the same scores: the way is the same, walked back."""
    pairs, nodes = random_pairs(60, seed=seed, count=2), "z+pattern+mlp_out"
    one = integrated_gradients(tiny.llama(), pairs, nodes, steps=3, **FREE)
    two = integrated_gradients(tiny.llama(), [pair.swapped() for pair in pairs], nodes, steps=3, **FREE)
    for key in one:
        assert np.allclose(one[key], two[key], atol=1e-4)


def test_between_two_near_prompts_it_is_attribution_patching() -> None:
    """Where gradients are the same all the way, so are the scores: a model that is nearly linear between them."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[3:] = model.model.embed_tokens.weight[3:].mean(
            0
        ) + 1e-3 * torch.randn(61, 32)
    pairs = random_pairs(60, seed=4)
    plain = attribution_patching(model.double(), pairs, "z", **FREE)
    found = integrated_gradients(model, pairs, "z", steps=2, **FREE)
    (one,), (two,) = plain, found
    assert np.allclose(plain[one], found[two], atol=0.02 * np.abs(plain[one]).max())


def test_forwards_do_not_grow_with_heads() -> None:
    """Two and one per step."""
    with study((tiny.llama(num_hidden_layers=4), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        before = case.engine.forwards
        integrate(case, ["z", "mlp_out"], Where.of("all", case.pairs), 5)
        assert case.engine.forwards - before == 7 * len(case.batches)


def test_bad_input() -> None:
    """No step, no way."""
    with pytest.raises(UsageError, match="at least 1"):
        integrated_gradients(tiny.llama(), random_pairs(60), steps=0)
    with pytest.raises(UsageError, match="no gradient"):
        integrated_gradients(tiny.llama(), random_pairs(60), measure="accuracy")
