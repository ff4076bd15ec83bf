"""Redundancy of attention and MLP, by hand on hidden states, and as `skip_module` chooses."""

import numpy as np
import tiny
import torch
from given import given, prompt

import probe
from probe.experiments.base import Ask
from probe.experiments.redundancy import Redundancy
from probe.interventions import skip_module


def by_hand(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, list[float]]:
    """1 - cos of the stream around attention, MLP and block, from a decoder layer's own steps."""
    seen: dict[str, list[torch.Tensor]] = {"in": [], "attention": [], "out": []}
    hooks = []
    for layer in model.model.layers:
        hooks += [
            layer.register_forward_pre_hook(lambda _m, args: seen["in"].append(args[0])),
            layer.self_attn.register_forward_hook(lambda _m, _a, out: seen["attention"].append(out[0])),
            layer.register_forward_hook(lambda _m, _a, out: seen["out"].append(out)),
        ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    cos = torch.nn.functional.cosine_similarity
    found: dict[str, list[float]] = {"attention": [], "mlp": [], "block": []}
    for before, added, after in zip(*seen.values(), strict=True):
        middle = before + added
        for kind, (one, other) in {
            "attention": (before, middle),
            "mlp": (middle, after),
            "block": (before, after),
        }.items():
            found[kind].append(1 - float(cos(one, other, dim=-1).mean()))
    return found


def test_equals_the_stream_around_each_module() -> None:
    """Two prompts, pooled by their tokens."""
    model, prompts = tiny.llama(num_hidden_layers=3), (prompt(9, "one"), prompt(16, "two"))
    answer = Redundancy().run(Ask(given(model), prompts))[0]
    hands = [by_hand(model, torch.tensor([one.tokens])) for one in prompts]
    for kind in ("attention", "mlp", "block"):
        expected = (9 * np.array(hands[0][kind]) + 16 * np.array(hands[1][kind])) / 25
        np.testing.assert_allclose(answer.extra[kind], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer.head_map, answer.extra["attention"])
    mlp = Redundancy(of="mlp").run(Ask(given(model), prompts))[0]
    np.testing.assert_allclose(mlp.head_map, answer.extra["mlp"])


def test_the_least_layers_are_those_that_skip_module_takes() -> None:
    """One measure for both; inside `analyze`, where the model is observed, as outside."""
    model, one = given(tiny.llama(num_hidden_layers=4)), prompt(16)
    report = probe.analyze(model, [one], metrics=["redundancy"])
    chosen = skip_module(n=2, over=[torch.tensor(one.tokens)]).prepare(model, None)
    least = np.sort(np.argsort(report["redundancy"].values)[:2])
    assert chosen.target.layers == tuple(least)


def test_a_norm_behind_the_sum_is_not_applicable() -> None:
    """BERT's modules cannot be taken out alone: the reason is told, without a number."""
    model = tiny.bert()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm.weight" in name:
                weight.copy_(torch.rand(weight.shape))
    answer = Redundancy().run(Ask(given(model), (prompt(8),)))[0]
    assert np.isnan(answer.head_map).all()
    assert "stands behind them" in answer.notes[0]
