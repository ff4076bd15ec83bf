"""Runs that are patched and resumed are those that whole forwards give."""

from collections.abc import Callable
from typing import Any

import pytest
import small_models
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs
from torch import Tensor

from probe.circuits.batches import Batch, batches
from probe.circuits.engine import Engine, engine
from probe.circuits.nodes import NODES, Node, Side
from probe.circuits.taps import Write
from probe.errors import CaptureError
from probe.models import LoadedModel, as_loaded

MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gemma3": lambda: tiny.gemma3(sliding_window=32),
    "gpt2": small_models.gpt2,
    "experts": tiny.gpt_oss,
}
ALL = torch.ones(1, 1, 1, 1, dtype=torch.bool)
LENGTH = 9


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """A small model."""
    made: LoadedModel = as_loaded(MODELS[request.param]())
    return made


def _batch(count: int = 3) -> Batch:
    (made,) = batches(random_pairs(50, count, LENGTH))
    return made


def _whole(running: Engine, batch: Batch, side: Side, writes: Any, copies: int = 1) -> Tensor:
    """The same by whole forwards."""
    before, running.whole = running.whole, "asked"
    running._tried = True
    try:
        return running.patched(batch, side, writes, copies)
    finally:
        running.whole = before


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_patch_of_a_run_into_itself_changes_nothing(loaded: LoadedModel, node: Node, layer: int) -> None:
    """Every node, every layer, whole and resumed."""
    batch = _batch()
    with engine(loaded) as running:
        trace = running.record(batch, "clean", [node])
        made = running.patched(batch, "clean", {(node, layer): Write(trace.value(node, layer), ALL)})
        assert torch.allclose(made[0], trace.logits, atol=1e-4)
        assert torch.allclose(running.logits(batch, "clean"), trace.logits, atol=1e-6)


@pytest.mark.parametrize("node", NODES)
def test_resumed_runs_equal_whole_forwards(loaded: LoadedModel, node: Node) -> None:
    """For units and positions one by one, several copies at a time."""
    batch = _batch()
    with engine(loaded) as running:
        value = running.record(batch, "corrupt", [node]).value(node, 1)
        n_units = value.shape[1]
        masks = torch.zeros(2 * n_units, 1, n_units, LENGTH, dtype=torch.bool)
        for unit in range(n_units):
            masks[2 * unit, :, unit, -1] = True
            masks[2 * unit + 1, :, unit, 4:7] = True
        for few in (masks, masks[::2]):
            writes = {(node, 1): Write(value, few)}
            resumed = running.patched(batch, "clean", writes, len(few))
            assert running.whole is None
            whole = _whole(running, batch, "clean", writes, len(few))
            assert torch.allclose(resumed, whole, atol=2e-4)
        assert not torch.allclose(resumed, running.logits(batch, "clean").expand_as(resumed), atol=1e-4)


@pytest.mark.parametrize("node", ["resid_pre", "resid_post", "resid_mid"])
def test_a_whole_stream_gives_the_other_run(loaded: LoadedModel, node: Node) -> None:
    """Every position of a stream carries everything that comes before it."""
    batch = _batch()
    with engine(loaded) as running:
        other = running.record(batch, "corrupt", [node])
        for layer in (0, 1):
            made = running.patched(batch, "clean", {(node, layer): Write(other.value(node, layer), ALL)})
            assert torch.allclose(made[0], other.logits, atol=2e-4)


@given(
    seed=st.integers(0, 1000),
    first=st.integers(0, LENGTH - 1),
    nodes=st.lists(
        st.sampled_from(["z", "mlp_out", "resid_pre", "q", "v"]), min_size=1, max_size=3, unique=True
    ),
)
@settings(max_examples=15)
def test_any_writes_resume_to_what_whole_forwards_give(seed: int, first: int, nodes: list[Node]) -> None:
    """Random nodes of both layers at random rows of a random source."""
    loaded, batch = as_loaded(tiny.llama()), _batch(2)
    drawn = torch.Generator().manual_seed(seed)
    with engine(loaded) as running:
        trace = running.record(batch, "corrupt", nodes)
        writes = {}
        for node in nodes:
            layer = int(torch.randint(2, (), generator=drawn))
            value = trace.value(node, layer)
            mask = torch.rand(3, 2, value.shape[1], LENGTH, generator=drawn) < 0.4
            mask[..., :first] = False
            writes[node, layer] = Write(value, mask)
        assert torch.allclose(
            running.patched(batch, "clean", writes, 3), _whole(running, batch, "clean", writes, 3), atol=2e-4
        )


def test_gradients_are_those_of_the_measure(loaded: LoadedModel) -> None:
    """A step along a gradient changes a logit as much as it says, for every node but patterns."""
    batch = _batch(1)
    nodes: list[Node] = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v"]
    with engine(loaded) as running:
        trace = running.graph(batch, "clean", nodes)
        keys = [(node, 1) for node in nodes]
        grads = torch.autograd.grad(trace.logits[0, 5], [trace.seen[key].raw for key in keys])
        for key, gradient in zip(keys, grads, strict=True):
            seen = trace.seen[key]
            shaped = seen.shaped(gradient).detach()
            step = 1e-2 * shaped / shaped.norm()
            sides = [
                running.patched(batch, "clean", {key: Write((seen.value.detach() + sign * step), ALL)})[
                    0, 0, 5
                ]
                for sign in (1, -1)
            ]
            assert float(sides[0] - sides[1]) / 2 == pytest.approx(
                float((shaped * step).sum()), rel=0.05, abs=2e-5
            )


def test_held_patterns_have_no_gradient(loaded: LoadedModel) -> None:
    """The attention rule: nothing flows through queries and keys, and values still have theirs."""
    batch = _batch(1)
    with engine(loaded) as running:
        trace = running.graph(batch, "clean", ["q", "k", "v"], held=True)
        keys = [("q", 1), ("k", 1), ("v", 1)]
        raws = [trace.seen[key].raw for key in keys]  # type: ignore[index]
        found = torch.autograd.grad(
            trace.logits[0, 5], [one for one in raws if one.requires_grad], allow_unused=True
        )
        assert [one.requires_grad for one in raws] == [False, False, True]
        assert float(found[0].abs().max()) > 0


def test_a_model_that_cannot_be_run_in_parts_is_run_whole_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where resumed logits differ, every patch is a whole forward and the notes tell."""
    loaded, batch = as_loaded(tiny.llama()), _batch()
    with engine(loaded) as running:
        honest = running._resumed
        monkeypatch.setattr(running, "_resumed", lambda *args: honest(*args) + 1)
        trace = running.record(batch, "corrupt", ["z"])
        write = {("z", 1): Write(trace.value("z", 1), ALL)}
        made = running.patched(batch, "clean", write)  # type: ignore[arg-type]
        assert "would differ" in str(running.whole)
        assert any("whole forward" in note for note in running.notes)
        assert torch.allclose(made, _whole(running, batch, "clean", write))


def test_nothing_is_left_behind() -> None:
    """Hooks, attention and mode are as they were."""
    model = tiny.llama()
    before = model(input_ids=tiny.tokens()).logits
    with engine(as_loaded(model)) as running:
        running.record(_batch(), "clean", ["z", "resid_mid"])
    assert torch.equal(model(input_ids=tiny.tokens()).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_between_parallel_parts_there_is_no_stream() -> None:
    """resid_mid of a block whose attention and MLP read the same stream is refused by name."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    with engine(as_loaded(GPTNeoXForCausalLM(config).eval())) as running:
        with pytest.raises(CaptureError, match="nothing between them"):
            running.record(_batch(), "clean", ["resid_mid"])
        running.record(_batch(), "clean", ["attn_out"])
