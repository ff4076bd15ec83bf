"""Rotary embeddings found by their effect: right for every layer, or refused with the reason."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import llama
from subjects.catalogue import SUBJECTS
from tiny import gemma3
from torch import nn

import probe
from probe.errors import InterventionError
from probe.interventions.rotary import Rotation, rotations


def of(model):
    """The rotations of a model's layers, in order."""
    return list(rotations(model, "a test").values())


def test_every_layer_has_its_own_frequencies():
    """Two rotary bases in one model are told apart, layer by layer."""
    local, whole = of(gemma3())
    assert float(local.frequencies[1]) == pytest.approx(1e4 ** (-1 / 8))
    assert float(whole.frequencies[1]) == pytest.approx(1e6 ** (-1 / 8))


@pytest.mark.parametrize(
    ("subject", "interleaved", "part"),
    [("llama", False, 1.0), ("cohere", True, 1.0), ("gpt-neox", False, 0.5), ("glm", True, 0.5)],
)
def test_layouts_are_found(subject, interleaved, part):
    """Halves or pairs, the whole head or a part of it: what the model does is found, without its name."""
    found = of(SUBJECTS[subject].model())
    assert all(one.interleaved is interleaved and one.first == 0 for one in found)
    config = SUBJECTS[subject].model().config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert {2 * len(one.frequencies) / width for one in found} == {part}


def test_a_layer_without_positions_is_known():
    """A layer that turns nothing among layers that do has no rotation."""
    found = of(SUBJECTS["smollm3"].model())
    assert any(one is None for one in found)
    assert any(one is not None for one in found)


def test_a_factor_on_cosines_is_kept():
    """YaRN's attention factor is undone with the rotation and stays in the length of the key."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    (one, _) = of(llama(rope_parameters=yarn))
    factor = 0.1 * math.log(4) + 1
    assert one.scaling == pytest.approx(factor)
    x = torch.randn(1, 8, dtype=torch.float64)
    given_to_attention = factor * one.turn(x, torch.tensor([9]))
    torch.testing.assert_close(
        one.undone(given_to_attention, torch.tensor([9]), torch.float64), factor * x, atol=1e-5, rtol=1e-5
    )


positions = st.integers(0, 500)


@settings(max_examples=30, deadline=None)
@given(one=positions, other=positions, interleaved=st.booleans(), first=st.sampled_from([0, 2]))
def test_turning_is_a_rotation(one, other, interleaved, first):
    """Turns add up, keep lengths, are undone by turning back, and leave the rest of the head alone."""
    x = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(one))
    turn = Rotation(torch.tensor([1.0, 0.3, 0.01]), 1.0, interleaved, first)
    a, b = torch.tensor(one), torch.tensor(other)
    twice = turn.turn(turn.turn(x, a), b)
    torch.testing.assert_close(twice, turn.turn(x, a + b))
    torch.testing.assert_close(twice.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(turn.turn(twice, -(a + b)), x)
    rest = [i for i in range(10) if not first <= i < first + 6]
    torch.testing.assert_close(twice[:, rest], x[:, rest])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_model_turned_is_undone(dtype):
    """The model's own rotary embedding at far positions is undone to the precision of its dtype."""
    model = llama().to(dtype)
    (turn, _) = of(model)
    x, at = torch.randn(1, 5, 8, dtype=dtype), torch.tensor([[3, 40, 900, 5000, 30000]])
    cos, sin = model.model.rotary_emb(x, at)
    half = torch.cat((-x[..., 4:], x[..., :4]), dim=-1)
    found = turn.undone((x * cos + half * sin).float(), at, dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 4e-2
    torch.testing.assert_close(found, x.float(), atol=tolerance, rtol=tolerance)


class Bent(nn.Module):
    """A rotary embedding whose angles do not grow evenly with the position."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, position_ids):
        """Cosines and sines at a position that is bent."""
        return self.inner(x, position_ids.float() ** 1.05)


def test_a_rotation_that_is_none_is_refused():
    """The proof is by numbers: a rotary embedding that bends positions is refused although its table is there."""
    model = llama()
    model.model.rotary_emb = Bent(model.model.rotary_emb)
    with pytest.raises(InterventionError, match=r"do not turn with their position.*misses by"):
        rotations(model, "a test")


@pytest.mark.parametrize(
    ("make_model", "says"),
    [
        (
            lambda: llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "dynamic",
        ),
        (SUBJECTS["opt"].model, "learned positions"),
        (SUBJECTS["doge"].model, "adds a bias"),
        (SUBJECTS["lfm2"].model, "without attention"),
        (SUBJECTS["bart"].model, "takes no position_ids"),
    ],
    ids=["dynamic", "learned", "bias", "convolution", "encoder-decoder"],
)
def test_models_are_refused_with_the_reason(make_model, says):
    """Frequencies that change, learned positions, biases, recurrences and models without positions are refused."""
    with pytest.raises(InterventionError, match=says):
        rotations(make_model(), "a test")


def test_a_model_under_observation_is_not_run():
    """A proof does not run behind the back of an open observation; what is proven already needs none."""
    model = llama()
    with probe.observe(model), pytest.raises(InterventionError, match="must first be proven"):
        rotations(model, "a test")
    found = rotations(model, "a test")
    with probe.observe(model):
        assert rotations(model, "a test") is found
