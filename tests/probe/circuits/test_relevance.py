"""Relevance patching: relevance is conserved with all rules and not without any; rules find their own places."""

import itertools
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from double import in_double
from support_pairs import random_pairs
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Phi3Config, Phi3ForCausalLM

from probe.circuits import CircuitOptions, activation_patching, attribution_patching, relp
from probe.circuits.gradients import gradient_run
from probe.circuits.relevance import ruled
from probe.circuits.rules import RULES, applied, require_rules, rules_of
from probe.circuits.sites import sites_of
from probe.circuits.study import study
from probe.errors import CaptureError, UnknownNameError
from probe.models import as_loaded

FREE: dict[str, Any] = {"min_accuracy": 0.0}


def phi3() -> Any:
    """Gate and value from one linear map."""
    config = Phi3Config(**{**tiny.SMALL, **tiny.IDS, "num_key_value_heads": 2})
    return tiny._make(Phi3ForCausalLM, config)


def mixtral() -> Any:
    """Experts whose weights are one tensor."""
    config = MixtralConfig(**{**tiny.SMALL, **tiny.IDS, "num_key_value_heads": 2, "num_local_experts": 4})
    return tiny._make(MixtralForCausalLM, config)


def _error(model: Any, rules: Any, side: Any = "corrupt") -> float:
    """How far Σ x ρ over the stream entering block 0 is from the logit difference, at the worst pair."""
    loaded = as_loaded((model, None))
    with study(loaded, random_pairs(50), CircuitOptions(min_accuracy=0.0)) as case:
        (batch,) = case.batches
        run = gradient_run(case, batch, side, ["resid_pre"], how=ruled(loaded, rules))
        total = (run.value("resid_pre", 0) * run.gradients["resid_pre", 0]).sum((1, 2, 3))
        return float((total - case.base(side)).abs().max())


@pytest.mark.parametrize("side", ["clean", "corrupt"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, phi3])
def test_all_rules_conserve_relevance(make: Any, side: Any) -> None:
    """Σ x ρ at the entrance is the logit difference, without biases: sandwich norms and fused gates as well."""
    assert _error(in_double(make()), RULES, side) < 1e-10


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, phi3])
@pytest.mark.parametrize("left_out", RULES)
def test_no_rule_can_be_left_out(make: Any, left_out: str) -> None:
    """Without any one of them relevance is lost or made."""
    assert _error(in_double(make()), [rule for rule in RULES if rule != left_out]) > 1e-3


def test_a_mlp_without_a_product_needs_no_half_rule() -> None:
    """Three rules conserve; with biases at 0, as they are made."""
    model = small_models.gpt2().double()
    assert not sites_of(as_loaded((model, None))).products
    for rules in (RULES, ["ln", "identity", "attention"]):
        assert _error(model, rules) < 1e-10
    assert _error(model, ["ln", "attention"]) > 1e-3


@pytest.mark.parametrize(
    ("make", "norms", "elementwise", "products"),
    [(tiny.llama, 5, 2, 2), (tiny.gemma3, 13, 2, 2), (phi3, 5, 2, 2), (small_models.gpt2, 5, 2, 0)],
)  # fmt: skip
def test_places_are_found(make: Any, norms: int, elementwise: int, products: int) -> None:
    """Two (or four) norms a block and the last one, two more for queries and keys; one activation function a block."""
    sites = sites_of(as_loaded((make(), None)))
    assert (len(sites.norms), len(sites.elementwise), len(sites.products)) == (norms, elementwise, products)
    assert sites.unread == sites.unmultiplied == ()


@pytest.mark.parametrize("count", range(5))
def test_rules_change_no_value(count: int) -> None:
    """The forward's numbers are the model's own, and no hook stays."""
    model = tiny.gemma3()
    loaded, ids = as_loaded((model, None)), tiny.tokens()
    plain = model(input_ids=ids).logits
    for rules in itertools.combinations(RULES, count):
        with applied(loaded, rules):
            assert torch.allclose(model(input_ids=ids).logits, plain, atol=1e-6)
    assert torch.equal(model(input_ids=ids).logits, plain)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_nothing_comes_of_an_input_of_zero() -> None:
    """The identity rule divides by the input; at 0 its gradient is a number."""
    model = tiny.llama()
    loaded = as_loaded((model, None))
    act = model.model.layers[0].mlp.act_fn
    given = torch.tensor([[0.0, 1e-30, -2.0, 3.0]], requires_grad=True)
    with applied(loaded, ["identity"]):
        made = act(given)
        made.sum().backward()
    assert torch.equal(made, nn.functional.silu(given))
    assert given.grad is not None
    assert torch.allclose(given.grad, torch.tensor([[0.0, 0.0, 1 / (1 + np.e**2), 1 / (1 + np.e**-3)]]))


def test_without_rules_it_is_attribution_patching() -> None:
    """The same numbers, in both directions."""
    pairs = random_pairs(60)
    for direction in ("denoise", "noise"):
        plain = attribution_patching(tiny.llama(), pairs, "z+mlp_out", direction=direction, **FREE)  # type: ignore[arg-type]
        none = relp(tiny.llama(), pairs, "z+mlp_out", direction=direction, rules="none", **FREE)  # type: ignore[arg-type]
        for one, two in zip(plain, none, strict=True):
            assert np.allclose(plain[one], none[two], atol=1e-7)


def test_the_last_mlp_is_near_its_truth() -> None:
    """Behind it only the final norm and the output embedding: with its scale held the score is the linear part."""
    pairs, model = random_pairs(60, 6), tiny.llama()
    with study((model, None), pairs, CircuitOptions(**FREE)) as case:
        (batch,) = case.batches
        final = case.engine.taps.anatomy.final
        own, other = (
            case.engine.record(batch, side, ["mlp_out", "resid_post"]) for side in ("corrupt", "clean")
        )
        assert final is not None
        stream = own.value("resid_post", 1)[:, 0, -1]
        rate = final.rate(stream, final.module(stream))
        moved = final.part((other.value("mlp_out", 1) - own.value("mlp_out", 1))[:, 0, -1], rate)
        numbers = case.numbers(batch, case.engine.taps.anatomy.unembed(moved))
        gap = case.gap
    report = relp(model, pairs, "mlp_out", at="end", layers=[1], **FREE)
    (key,) = report
    answer = report.answer(key)
    assert answer.by_prompt is not None
    assert np.allclose(answer.by_prompt.sel(layer=1), numbers.detach() / gap, atol=1e-5)


def test_the_two_directions_are_one_seen_from_two_sides() -> None:
    """Noise on pairs is denoise on the swapped pairs."""
    pairs = random_pairs(60, 2)
    one = relp(tiny.llama(), pairs, direction="noise", rules="ln+identity+half+attention", **FREE)
    two = relp(tiny.llama(), [pair.swapped() for pair in pairs], rules=list(RULES), **FREE)
    (noise,), (denoise,) = one, two
    assert np.allclose(one[noise], two[denoise], atol=1e-4)


def test_with_patterns_held_queries_and_keys_carry_nothing() -> None:
    """The attention rule sends all relevance through the values."""
    report = relp(tiny.llama(), random_pairs(60), "q+k+v", rules=list(RULES), **FREE)
    q, k, v = report
    assert not np.any(report[q])
    assert not np.any(report[k])
    assert np.any(report[v])


@pytest.mark.parametrize(
    ("make", "rule"), [(mixtral, "half"), (tiny.gpt_oss, "identity"), (tiny.gpt_oss, "half")]
)
def test_rules_that_cannot_be_placed_are_refused(make: Any, rule: str) -> None:
    """Batched experts multiply outside of modules; the rest of the rules works."""
    model = make()
    with pytest.raises(CaptureError, match=f"the {rule} rule was asked"):
        relp(model, random_pairs(60), rules=["ln", rule], **FREE)
    require_rules(as_loaded((model, None)), ["ln", "attention"])
    report = relp(model, random_pairs(60), rules="ln", **FREE)
    (key,) = report
    assert np.isfinite(report[key]).all()


def test_bad_input() -> None:
    """Rules by name only."""
    assert rules_of("half+ln") == ("ln", "half")
    with pytest.raises(UnknownNameError, match="did you mean 'identity'"):
        relp(tiny.llama(), random_pairs(60), rules="identitty")
    with pytest.raises(UnknownNameError, match="relevance rule"):
        rules_of("none+ln")


def test_both_maps_have_one_scale() -> None:
    """Close to activation patching on the whole: as a share of the same difference."""
    pairs = random_pairs(60, 4)
    truth = activation_patching(tiny.llama(), pairs, "resid_post", **FREE)
    found = relp(tiny.llama(), pairs, "resid_post", at="all", rules="ln", **FREE)
    (one,), (two,) = truth, found
    assert truth[one].dims == found[two].dims
    assert truth.answer(one).unit == found.answer(two).unit
