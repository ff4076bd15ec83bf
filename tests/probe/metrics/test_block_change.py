"""What layers do to the residual stream: as `skip_layer` measures it, and against loops over hidden states."""

import itertools

import numpy as np
import pytest
import small_models
import tiny
import torch

from probe.errors import UsageError
from probe.interventions.redundancy import Blocks, block_distances
from probe.interventions.target import Target
from probe.metrics import answers, make
from probe.models import LoadedModel, ModelSource
from probe.seam.session import Session


def seen(spec: str, model: torch.nn.Module, ids: torch.Tensor) -> np.ndarray:
    metric = make(spec)
    with Session(model, [metric]), torch.no_grad():
        model(ids)
    answer = answers(metric)[0]
    assert answer.head_map.dims == ("layer",)
    return answer.head_map.values


def hidden(model: torch.nn.Module, ids: torch.Tensor) -> list[torch.Tensor]:
    """The stream before every block and after the last, without the final norm."""
    states: list[torch.Tensor] = []
    layers = model.model.layers
    hooks = [one.register_forward_pre_hook(lambda _m, args: states.append(args[0])) for one in layers]
    hooks.append(layers[-1].register_forward_hook(lambda _m, _a, out: states.append(out)))
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return states


def test_block_change_is_what_skip_layer_measures() -> None:
    """The same number from the same formula, forward by forward."""
    model, ids = tiny.llama(num_hidden_layers=4), tiny.tokens(2, 11)
    found = seen("block_change", model, ids)
    loaded = LoadedModel(model, None, "llama", ModelSource("given"))
    blocks = Blocks.of(model, Target.of(None, {}), "test")
    expected = block_distances(loaded, blocks, [{"input_ids": ids}], "test")
    np.testing.assert_allclose(found, [expected[layer] for layer in range(4)], rtol=1e-5)


def test_voids_follow_their_rule_token_by_token() -> None:
    """Below alpha times the range of the layers before; the first layer against itself is a void where it shrinks."""
    model, ids = tiny.llama(num_hidden_layers=5), tiny.tokens(2, 11)
    norms = [one.norm(dim=-1) for one in hidden(model, ids)]
    grown = torch.stack([after - before for before, after in itertools.pairwise(norms)])
    expected = []
    for layer in range(5):
        before = grown[: max(layer, 1)]
        expected.append(float((grown[layer] < 0.8 * (before.amax(0) - before.amin(0))).float().mean()))
    np.testing.assert_allclose(seen("void", model, ids), expected)
    assert 0 < np.mean(expected) < 1


def test_phases_are_apart() -> None:
    """Prompt and response together are the two phases, weighed by their tokens."""
    model = small_models.llama()
    metrics = [make(f"void:phase={phase}") for phase in ("prefill", "decode", "both")]
    with Session(model, metrics), torch.no_grad():
        model.generate(torch.arange(5, 17)[None], max_new_tokens=6, do_sample=False, eos_token_id=None)
    first, later, both = (answers(one)[0] for one in metrics)
    np.testing.assert_allclose(both.head_map, (12 * first.head_map + 5 * later.head_map) / 17)


def test_a_negative_threshold_is_refused() -> None:
    """alpha is a share of a range."""
    with pytest.raises(UsageError, match="0 or more"):
        make("void:alpha=-1")
