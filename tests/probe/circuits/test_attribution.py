"""Attribution patching: exact where the model is linear, a derivative elsewhere, at one price for every head."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from double import in_double
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs
from torch import nn

import probe
from probe.circuits import CircuitOptions, activation_patching, attribution_patching
from probe.circuits.attribution import attribute, require_direction
from probe.circuits.gradients import gradient_run, require_gradients
from probe.circuits.nodes import NODES, Node
from probe.circuits.study import study
from probe.circuits.taps import Write
from probe.circuits.where import Where
from probe.errors import UnknownNameError, UsageError
from probe.models import as_loaded

FREE: dict[str, Any] = {"min_accuracy": 0.0}


class _Plain(nn.Module):
    """A linear MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """W x."""
        return self.map(hidden_states)


def linear() -> Any:
    """A decoder that is linear in its embeddings: no norm, uniform patterns, MLPs of one matrix."""
    model = tiny.llama()
    torch.manual_seed(3)
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = nn.Identity(), nn.Identity()
        layer.mlp = _Plain(32)
        nn.init.zeros_(layer.self_attn.q_proj.weight)
    model.model.norm = nn.Identity()
    return model.double().eval()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("node", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "v"])
def test_it_is_activation_patching_where_the_model_is_linear(node: Node, direction: Any) -> None:
    """Every unit at every marked position, in both directions."""
    pairs, model = random_pairs(60), linear()
    truth = activation_patching(model, pairs, node, at="marks", direction=direction, **FREE)
    found = attribution_patching(model, pairs, node, at="marks", direction=direction, **FREE)
    (one,), (two,) = truth, found
    assert np.abs(truth[one]).max() > 0
    assert np.allclose(truth[one], found[two], atol=1e-9)
    assert np.allclose(
        truth.answer(one).extra["by_position"], found.answer(two).extra["by_position"], atol=1e-9
    )


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, small_models.gpt2])
@pytest.mark.parametrize("node", NODES)
def test_it_is_the_slope_of_activation_patching(make: Any, node: Node) -> None:
    """A small step towards the other run changes the measure by the step times the score."""
    loaded = as_loaded((in_double(make()), None))
    step = 1e-2 if node == "pattern" else 1e-3  # patterns are written in float32
    with study(loaded, random_pairs(50), CircuitOptions(min_accuracy=0.0)) as case:
        (batch,) = case.batches
        score = attribute(case, [node], Where.of("all", case.pairs))[node].scores
        own, other = (case.engine.record(batch, side, [node]) for side in ("corrupt", "clean"))
        for layer in own.layers(node):
            base = own.value(node, layer)
            moved = base + step * (other.value(node, layer) - base)
            units = base.shape[1]
            mask = torch.eye(units, dtype=torch.bool)[:, None, :, None]
            ahead = case.numbers(
                batch, case.engine.patched(batch, "corrupt", {(node, layer): Write(moved, mask)}, units)
            )
            back = base - step * (other.value(node, layer) - base)
            behind = case.numbers(
                batch, case.engine.patched(batch, "corrupt", {(node, layer): Write(back, mask)}, units)
            )
            slope = (ahead - behind) / (2 * step) / case.gap
            assert torch.allclose(score[layer][:, 0], slope, atol=1e-3 * max(1.0, float(slope.abs().max())))


@pytest.mark.parametrize("nodes", [["z"], list(NODES)])
@pytest.mark.parametrize("layers", [2, 5])
def test_two_forwards_and_a_backward_pay_for_everything(nodes: list[Node], layers: int) -> None:
    """However many heads, layers and nodes there are."""
    model = as_loaded((tiny.llama(num_hidden_layers=layers), None))
    with study(model, random_pairs(60), CircuitOptions(min_accuracy=0.0)) as case:
        before = case.engine.forwards
        attribute(case, nodes, Where.of("tokens", case.pairs))
        assert case.engine.forwards - before == 2 * len(case.batches)


def test_several_nodes_at_once_are_as_they_are_alone() -> None:
    """One report, one answer each."""
    pairs = random_pairs(60)
    together = attribution_patching(tiny.llama(), pairs, "z+mlp_out", **FREE)
    assert [key.partition(",")[0] for key in together] == [
        "attribution_patching:nodes=z", "attribution_patching:nodes=mlp_out",
    ]  # fmt: skip
    for key, node in zip(together, ("z", "mlp_out"), strict=True):
        alone = attribution_patching(tiny.llama(), pairs, node, **FREE)
        assert np.allclose(alone[key], together[key], atol=1e-6)


@given(seed=st.integers(0, 200))
@settings(max_examples=4)
def test_the_two_directions_are_one_seen_from_two_sides(seed: int) -> None:
    """Noise on pairs is denoise on the swapped pairs."""
    pairs, nodes = random_pairs(60, seed=seed, count=2), ["q", "resid_mid", "pattern"]
    one = attribution_patching(tiny.llama(), pairs, nodes, direction="noise", **FREE)
    two = attribution_patching(tiny.llama(), [pair.swapped() for pair in pairs], nodes, **FREE)
    for noise, denoise in zip(one, two, strict=True):
        assert np.allclose(one[noise], two[denoise], atol=1e-4)


def test_places_and_pairs_sum_to_the_map() -> None:
    """Positions one by one sum to all of them at once; the mean over pairs is the map."""
    pairs = [*random_pairs(60, 2, 9), *random_pairs(60, 1, 9, seed=5)]
    whole = attribution_patching(tiny.llama(), pairs, "z", **FREE)
    parts = attribution_patching(tiny.llama(), pairs, "z", at="tokens", **FREE)
    (one,), (two,) = whole, parts
    assert np.allclose(whole[one], parts[two], atol=1e-5)
    answer = whole.answer(one)
    assert answer.by_prompt is not None
    assert np.allclose(answer.by_prompt.mean("prompt"), answer.head_map)
    assert parts.answer(two).extra["by_position"].sizes["position"] == 9


def test_only_the_layers_that_were_asked() -> None:
    """Each as it is among all; a layer that is not there is refused."""
    pairs = random_pairs(60)
    whole = attribution_patching(tiny.llama(), pairs, "z", **FREE)
    one = attribution_patching(tiny.llama(), pairs, "z", layers=[1], **FREE)
    (key,) = whole
    assert one[key].layer.values.tolist() == [1]
    assert np.array_equal(one[key].sel(layer=1), whole[key].sel(layer=1))
    with pytest.raises(UsageError, match="layers 0 to 1"):
        attribution_patching(tiny.llama(), pairs, "z", layers=[7], **FREE)


def test_a_report_is_saved_and_opened(tmp_path: Any) -> None:
    """Like any other."""
    report = attribution_patching(tiny.llama(), random_pairs(60), at="marks", **FREE)
    report.save(tmp_path / "run")
    assert probe.open_report(tmp_path / "run").identical(report)


def test_bad_input() -> None:
    """Each is refused before anything is run, and told what to do."""
    pairs = random_pairs(60)
    with pytest.raises(UnknownNameError, match="node"):
        attribution_patching(tiny.llama(), pairs, "z+heads")
    with pytest.raises(UsageError, match="no node"):
        attribution_patching(tiny.llama(), pairs, [])
    with pytest.raises(UsageError, match="direction"):
        require_direction("up")
    with pytest.raises(UsageError, match="accuracy has no gradient"):
        attribution_patching(tiny.llama(), pairs, measure="accuracy")
    with pytest.raises(UsageError, match="every gradient is 0"):
        attribution_patching(tiny.llama(), pairs, measure="kl", direction="noise")
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        attribution_patching(tiny.llama(), pairs)


class _Packed(nn.Linear):
    """A linear map of four-bit weights, as quantised models hold them."""

    def __init__(self) -> None:
        super().__init__(8, 8, bias=False)
        self.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)


class _Grouped(nn.Module):
    """A linear map that holds its packed matrix as a buffer of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.infeatures, self.outfeatures = 8, 8
        self.register_buffer("qweight", torch.zeros(1, 8, dtype=torch.int32))


@pytest.mark.parametrize("make", [_Packed, _Grouped])
def test_quantised_weights_are_refused_by_name(make: Any) -> None:
    """Before a forward is run: the module and its weights are named."""
    model = tiny.llama()
    require_gradients(as_loaded((model, None)), "attribution_patching")
    model.model.layers[1].mlp.up_proj = make()
    with pytest.raises(UsageError, match=r"quantised \(model.layers.1.mlp.up_proj is a _\w+ of torch.u?int"):
        attribution_patching(model, random_pairs(60))


def test_a_pattern_has_the_gradient_of_its_own_product() -> None:
    """g_z · v is the derivative of the measure by a single entry of the pattern."""
    with study((tiny.llama().double(), None), random_pairs(60, 1), CircuitOptions(min_accuracy=0.0)) as case:
        (batch,) = case.batches
        run = gradient_run(case, batch, "clean", ["pattern"])
        value = run.value("pattern", 0)
        found = []
        for step in (1e-4, -1e-4):
            moved = value.clone()
            moved[0, 2, 5, 3] += step
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
            found.append(
                case.numbers(batch, case.engine.patched(batch, "clean", {("pattern", 0): Write(moved, mask)}))
            )
        slope = float((found[0] - found[1]).squeeze()) / 2e-4
        assert float(run.gradients["pattern", 0][0, 2, 5, 3]) == pytest.approx(slope, rel=1e-3, abs=1e-7)
