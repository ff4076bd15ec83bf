"""Edge attribution: edges sum to nodes, whatever the gradient; a planted path is found."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from double import in_double
from lone_writers import lone_writers
from support_pairs import random_pairs
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import probe
from probe.circuits import CircuitOptions, edge_attribution
from probe.circuits.attribution import attribute
from probe.circuits.changes import Changes, Chunk
from probe.circuits.edges import trace_edges
from probe.circuits.gradients import Backward
from probe.circuits.integrated import integrate
from probe.circuits.relevance import DEFAULT, ruled
from probe.circuits.rules import RULES
from probe.circuits.study import study
from probe.circuits.where import Where
from probe.errors import UnknownNameError, UsageError
from probe.models import as_loaded

FREE: dict[str, Any] = {"min_accuracy": 0.0}


def parallel() -> Any:
    """Attention and MLP read the same stream; biases everywhere."""
    config = GPTNeoXConfig(**tiny.SMALL, **tiny.IDS, use_parallel_residual=True, max_position_embeddings=64)
    return tiny._make(GPTNeoXForCausalLM, config)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("make", [tiny.llama, small_models.gpt2, parallel])
def test_edges_sum_to_nodes(make: Any, direction: Any) -> None:
    """All paths from a head, an MLP or the embedding together are what it carries as a node."""
    with study((in_double(make()), None), random_pairs(50), CircuitOptions(**FREE)) as case:
        edges = trace_edges(case, direction, 0, Backward(keep=True))
        nodes = attribute(case, ["z", "mlp_out", "resid_pre"], Where.of("all", case.pairs), direction)
        for member, total in zip(edges.senders.members, edges.sums, strict=True):
            if member is None:
                own = nodes["resid_pre"].scores[0][0, 0]
            else:
                own = nodes[member.node].scores[member.layer][member.unit, 0]
            assert torch.allclose(total, own, atol=1e-8)


@pytest.mark.parametrize("rules", [DEFAULT, RULES])
def test_they_do_with_relevance_rules(rules: Any) -> None:
    """The backward pass is another, the sum is the same; with patterns held no path ends in queries and keys."""
    loaded = as_loaded((in_double(tiny.llama()), None))
    with study(loaded, random_pairs(60), CircuitOptions(**FREE)) as case:
        edges = trace_edges(case, "denoise", 0, ruled(loaded, rules, keep=True))
        nodes = attribute(case, ["z"], Where.of("all", case.pairs), "denoise", None, ruled(loaded, rules))[
            "z"
        ]
        for layer, scores in edges.nodes.scores.items():
            assert torch.allclose(scores, nodes.scores[layer], atol=1e-8)
        queries = [n for n, name in enumerate(edges.receivers) if name.endswith((".q", ".k"))]
        assert bool(torch.nan_to_num(edges.scores[:, queries]).any()) == ("attention" not in rules)


def test_they_do_on_the_way_between_the_prompts() -> None:
    """Means of gradients, in two forwards and one per step."""
    with study((in_double(tiny.llama()), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        before = case.engine.forwards
        edges = trace_edges(case, "denoise", 3, Backward(keep=True))
        assert case.engine.forwards - before == 5
        nodes = integrate(case, ["z"], Where.of("all", case.pairs), 3)["z"]
        for layer, scores in edges.nodes.scores.items():
            assert torch.allclose(scores, nodes.scores[layer], atol=1e-8)


def test_behind_norms_heads_sum_to_attention() -> None:
    """Sandwich norms: a head's part of what is added has the norm's scale held; together they are all of it."""
    with study((in_double(tiny.gemma3()), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        edges = trace_edges(case, "denoise", 0, Backward(keep=True))
        nodes = attribute(case, ["attn_out"], Where.of("all", case.pairs))["attn_out"]
        for layer, scores in edges.nodes.scores.items():
            assert torch.allclose(scores.sum(0, keepdim=True), nodes.scores[layer], atol=1e-8)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_what_reaches_the_logits_is_the_last_stream(make: Any) -> None:
    """All senders' direct paths are what the last block's stream carries."""
    with study((in_double(make()), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        edges = trace_edges(case, "denoise", 0, Backward(keep=True))
        nodes = attribute(case, ["resid_post"], Where.of("all", case.pairs))["resid_post"]
        assert edges.receivers[-1] == "logits"
        assert torch.allclose(edges.scores[:, -1].sum(0), nodes.scores[1][0, 0], atol=1e-8)


def test_only_what_writes_before_can_reach() -> None:
    """Receivers in the order in which they read; grouped queries have one receiver per key/value head."""
    report = edge_attribution(tiny.llama(), random_pairs(60), **FREE)
    (key,) = report
    edges = report.answer(key).extra["edges"]
    assert edges.sender.values.tolist() == [
        "embedding", "L0.H0", "L0.H1", "L0.H2", "L0.H3", "L0.MLP", "L1.H0", "L1.H1", "L1.H2", "L1.H3", "L1.MLP",
    ]  # fmt: skip
    assert [name for name in edges.receiver.values if name.startswith("L1.KV")] == [
        "L1.KV0.k", "L1.KV1.k", "L1.KV0.v", "L1.KV1.v",
    ]  # fmt: skip
    paths = np.isfinite(edges).sum("sender").to_series()
    assert paths["L0.H2.q"] == 1
    assert paths["L0.MLP"] == 5
    assert paths["L1.KV1.v"] == 6
    assert paths["L1.MLP"] == 10
    assert paths["logits"] == 11
    side = edge_attribution(parallel(), random_pairs(60), **FREE)
    (key,) = side
    assert np.isfinite(side.answer(key).extra["edges"]).sum("sender").to_series()["L0.MLP"] == 1


def test_a_planted_path_is_the_strongest() -> None:
    """L1.H2 writes and only the MLP of layer 2 reads what it writes: nothing else can come of it."""
    report = edge_attribution(lone_writers(), random_pairs(60, 4), **FREE)
    (key,) = report
    edges = np.abs(report.answer(key).extra["edges"])
    inner = edges.sel(sender=[name for name in edges.sender.values if name != "embedding"])
    ends = {"L2.MLP", "logits"}
    best = inner.max("sender").to_series().nlargest(2)
    assert set(best.index) == ends
    assert str(inner.sel(receiver="L2.MLP").idxmax("sender").values) == "L1.H2"


@pytest.mark.parametrize("gradient", ["plain", "integrated", "relp"])
def test_a_report_is_saved_and_opened(gradient: Any, tmp_path: Any) -> None:
    """Like any other; the map has an entry per head, the mean over pairs."""
    report = edge_attribution(tiny.llama(), random_pairs(60), gradient, steps=2, **FREE)
    (key,) = report
    answer = report.answer(key)
    assert answer.head_map.dims == ("layer", "head")
    assert answer.by_prompt is not None
    assert np.allclose(answer.by_prompt.mean("prompt"), answer.head_map)
    report.save(tmp_path / "run")
    assert probe.open_report(tmp_path / "run").identical(report)


def test_two_forwards_pay_for_all_edges() -> None:
    """However many heads there are."""
    with study((tiny.llama(), None), random_pairs(60), CircuitOptions(**FREE)) as case:
        before = case.engine.forwards
        trace_edges(case, "denoise", 0, Backward(keep=True))
        assert case.engine.forwards - before == 2


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, small_models.gpt2, parallel])
def test_what_is_held_at_a_time_changes_nothing(make: Any, steps: int) -> None:
    """Fewer pairs at a time, then single pairs, then single layers of single pairs: every edge is the same."""
    pairs = [*random_pairs(50, 3, 9), *random_pairs(50, 2, 6, seed=1)]
    with study((in_double(make()), None), pairs, CircuitOptions(**FREE)) as case:
        whole = trace_edges(case, "denoise", steps, Backward(keep=True))
        all_senders = len(whole.senders.members) * 32  # for one token
        for most in (all_senders * 20, all_senders * 9, 9 * 32 * 6, 1):
            parts = trace_edges(case, "denoise", steps, Backward(keep=True), most)
            assert (parts.receivers, parts.senders) == (whole.receivers, whole.senders)
            assert torch.allclose(parts.scores, whole.scores, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_no_more_is_held_than_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the numbers of pairs and layers; one layer of one pair is the least."""
    sizes: list[int] = []
    made = Changes.of

    def noted(self: Changes, chunk: Chunk) -> torch.Tensor:
        found = made(self, chunk)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(Changes, "of", noted)
    least = 9 * 32 * 6  # positions, d_model, and the first layer's heads, MLP and embedding
    with study((tiny.llama(num_hidden_layers=5), None), random_pairs(50, 4), CircuitOptions(**FREE)) as case:
        for most, runs in (
            (4 * 9 * 32 * 26, 1),
            (9 * 32 * 60, 2),
            (9 * 32 * 26, 4),
            (9 * 32 * 13, 12),
            (least, 20),
        ):
            sizes.clear()
            trace_edges(case, "denoise", 0, Backward(keep=True), most)
            assert max(sizes) <= most
            assert len(sizes) == runs
            assert sum(sizes) == 4 * 9 * 32 * 26


def test_bad_input() -> None:
    """Each is told."""
    pairs = random_pairs(60)
    with pytest.raises(UsageError, match="no gradient"):
        edge_attribution(tiny.llama(), pairs, measure="accuracy")
    with pytest.raises(UnknownNameError, match="relevance rule"):
        edge_attribution(tiny.llama(), pairs, "relp", rules="all")
    with pytest.raises(UsageError, match="at least 1"):
        edge_attribution(tiny.llama(), pairs, "integrated", steps=0)
