"""Patches held against surgery on the weights, and against the other run where everything is patched."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs
from torch import Tensor, nn

from probe.circuits import activation_patching
from probe.circuits.anatomy import anatomy_of
from probe.circuits.batches import Batch, batches
from probe.circuits.engine import engine
from probe.circuits.nodes import Key, Node
from probe.circuits.taps import Write
from probe.models import as_loaded

MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gpt2": small_models.gpt2,
    "gemma3": lambda: tiny.gemma3(sliding_window=32),
}
N_HEADS, N_LAYERS = 4, 2
ALL = torch.ones(1, 1, 1, 1, dtype=torch.bool)


def _batch(count: int = 3) -> Batch:
    (made,) = batches(random_pairs(50, count, 8))
    return made


def _logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(batch.ids("clean", torch.device("cpu"))).logits
    return found[:, -1]


def _cut(model: Any, layer: int, head: int) -> Any:
    """The same model with the columns of W_O that read one head set to zero."""
    cut = copy.deepcopy(model)
    projection = anatomy_of(as_loaded(cut)).block(layer).projection
    assert projection is not None
    weight = cut.get_submodule(projection.name).weight
    linear = isinstance(cut.get_submodule(projection.name), nn.Linear)
    width = (weight.shape[1] if linear else weight.shape[0]) // N_HEADS
    read = slice(head * width, (head + 1) * width)
    with torch.no_grad():
        if linear:
            weight[:, read] = 0
        else:
            weight[read] = 0
    return cut


@pytest.mark.parametrize("kind", MODELS)
def test_a_head_cut_from_the_weights_is_a_head_patched_by_zeros(kind: str) -> None:
    """Every head of every layer: the logits of the cut model are those of the patched one."""
    model, batch = MODELS[kind](), _batch()
    cut = {
        (layer, head): _logits(_cut(model, layer, head), batch)
        for layer in range(N_LAYERS)
        for head in range(N_HEADS)
    }
    with engine(as_loaded(model)) as running:
        trace = running.record(batch, "clean", ["z"])
        for layer in range(N_LAYERS):
            zeros = torch.zeros_like(trace.value("z", layer))
            alone = torch.eye(N_HEADS, dtype=torch.bool)[:, None, :, None]  # one copy per head
            patched = running.patched(batch, "clean", {("z", layer): Write(zeros, alone)}, N_HEADS)
            for head in range(N_HEADS):
                torch.testing.assert_close(patched[head], cut[layer, head], rtol=1e-4, atol=1e-4)
                assert (cut[layer, head] - trace.logits).abs().max() > 1e-3


@pytest.mark.parametrize("kind", MODELS)
def test_everything_patched_is_the_other_run(kind: str) -> None:
    """All heads, MLPs and the stream that enters: the logits are the other prompt's, in either direction."""
    model, batch = MODELS[kind](), _batch()
    nodes: tuple[Node, ...] = ("z", "mlp_out", "attn_out")
    with engine(as_loaded(model)) as running:
        for source, into in (("clean", "corrupt"), ("corrupt", "clean")):
            trace = running.record(batch, source, [*nodes, "resid_pre"])  # type: ignore[arg-type]
            writes: dict[Key, Write] = {
                (node, layer): Write(trace.value(node, layer), ALL)
                for node in nodes
                for layer in range(N_LAYERS)
            }
            writes["resid_pre", 0] = Write(trace.value("resid_pre", 0), ALL)
            patched = running.patched(batch, into, writes)  # type: ignore[arg-type]
            torch.testing.assert_close(patched[0], trace.logits, rtol=1e-4, atol=1e-4)


@settings(max_examples=10)
@given(kind=st.sampled_from(sorted(MODELS)), seed=st.integers(0, 2**16))
def test_any_part_of_a_run_patched_into_itself_changes_nothing(kind: str, seed: int) -> None:
    """Random nodes of random layers, units and positions at once."""
    drawn = np.random.default_rng(seed)
    batch = _batch(2)
    with engine(as_loaded(MODELS[kind]())) as running:
        nodes: list[Node] = drawn.choice(["z", "q", "k", "v", "pattern", "attn_out", "mlp_out"], 3).tolist()
        trace = running.record(batch, "clean", nodes)
        writes: dict[Key, Write] = {}
        for node in nodes:
            layer = int(drawn.integers(N_LAYERS))
            value = trace.value(node, layer)
            mask = torch.from_numpy(drawn.random((1, *value.shape[:3])) < 0.5)
            writes[node, layer] = Write(value, mask)
        patched = running.patched(batch, "clean", writes)
        torch.testing.assert_close(patched[0], trace.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_head_that_writes_nothing_carries_nothing(kind: str) -> None:
    """Its recovery is zero and the others' are not: patching is of what the head adds."""
    pairs = random_pairs(50, 3, 8)
    report = activation_patching(_cut(MODELS[kind](), 1, 2), pairs, "z", min_accuracy=0.0)
    (answer,) = report.answers
    heads = answer.head_map.sel(layer=1).values
    assert abs(heads[2]) < 1e-5
    assert np.abs(np.delete(heads, 2)).min() > 1e-4
