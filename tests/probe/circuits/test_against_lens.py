"""TransformerLens, through its bridge, patches and attributes the same, on small random models and on real weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_models
import tiny
import torch
from support_pairs import random_pairs
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import probe
from probe.circuits import (
    activation_patching,
    attribution_patching,
    edge_attribution,
    logit_attribution,
    make_pairs,
)
from probe.models import LoadedModel
from probe.prompts.pairs import Pair
from probe.report import Answer

bridges = pytest.importorskip("transformer_lens.model_bridge", reason="needs the extra 'lens'")
patching = pytest.importorskip("transformer_lens.patching", reason="needs the extra 'lens'")
analysis = pytest.importorskip("transformer_lens.tools.analysis", reason="needs the extra 'lens'")

MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gpt2": small_models.gpt2,
    "gemma3": lambda: tiny.gemma3(sliding_window=32),
}
# Ours by name -> theirs, over layers (and heads) at all positions.
HEADS = {
    "z": "get_act_patch_attn_head_out_all_pos",
    "q": "get_act_patch_attn_head_q_all_pos",
    "k": "get_act_patch_attn_head_k_all_pos",
    "v": "get_act_patch_attn_head_v_all_pos",
    "pattern": "get_act_patch_attn_head_pattern_all_pos",
}
# The same over positions one by one.
PLACES = {
    "resid_pre": "get_act_patch_resid_pre",
    "resid_mid": "get_act_patch_resid_mid",
    "attn_out": "get_act_patch_attn_out",
    "mlp_out": "get_act_patch_mlp_out",
    "z": "get_act_patch_attn_head_out_by_pos",
}
CLOSE = {"atol": 1e-3, "rtol": 0}  # logits
PAIRS = random_pairs(50, 3, 8)


@dataclass(frozen=True)
class Lens:
    """One model twice: as it is, and behind a bridge of its own copy."""

    model: Any
    bridge: Any

    def patched(self, function: str, pairs: list[Pair]) -> np.ndarray:
        """What TransformerLens gives for clean values in the corrupt run: the mean logit difference."""
        clean, corrupt = _ids(pairs, "clean"), _ids(pairs, "corrupt")
        with torch.no_grad():
            _, cache = self.bridge.run_with_cache(clean)
            found: Tensor = getattr(patching, function)(self.bridge, corrupt, cache, difference(pairs))
        return found.numpy()


def _ids(pairs: list[Pair], side: str) -> Tensor:
    return torch.tensor([getattr(pair, side).tokens for pair in pairs])


def difference(pairs: list[Pair]) -> Callable[[Tensor], Tensor]:
    """Mean over pairs of the right logit minus the wrong one."""
    rows = torch.arange(len(pairs))
    right, wrong = (torch.tensor([getattr(pair, which)[0] for pair in pairs]) for which in ("right", "wrong"))
    return lambda logits: (logits[rows, -1, right] - logits[rows, -1, wrong]).mean()


def booted(model: Any, folder: Path) -> Any:
    """A bridge on the model."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(50)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", unk_token="0")
    model.save_pretrained(folder)
    return bridges.TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module", params=MODELS)
def lens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lens:
    """A small random model and its bridge."""
    make = MODELS[request.param]
    return Lens(make(), booted(make(), tmp_path_factory.mktemp(request.param)))


def ours(lens: Lens, node: str, at: str) -> Answer:
    """Our answer for the same patch."""
    (answer,) = activation_patching(lens.model, PAIRS, node, at=at, min_accuracy=0.0).answers
    return answer


def as_logits(model: Any, pairs: list[Pair], recovered: np.ndarray) -> np.ndarray:
    """The mean logit difference that a recovery stands for: both ends are from transformers alone."""
    with torch.no_grad():
        clean, corrupt = (
            float(difference(pairs)(model(_ids(pairs, side)).logits)) for side in ("clean", "corrupt")
        )
    return corrupt + recovered * (clean - corrupt)


@pytest.mark.parametrize("node", HEADS)
def test_patches_of_heads_at_all_positions(lens: Lens, node: str) -> None:
    """Every head (key/value head) of every layer."""
    theirs = lens.patched(HEADS[node], PAIRS)
    found = as_logits(lens.model, PAIRS, ours(lens, node, "all").head_map.values)
    assert found.shape == theirs.shape
    np.testing.assert_allclose(found, theirs, **CLOSE)
    assert np.ptp(theirs) > 0.01


@pytest.mark.parametrize("node", PLACES)
def test_patches_position_by_position(lens: Lens, node: str) -> None:
    """Every position of every layer (and head): the stream, attention, MLPs and heads; the last one as ``end`` too."""
    theirs = lens.patched(PLACES[node], PAIRS)  # layer, position, and head behind it
    by_position = ours(lens, node, "tokens").extra["by_position"]
    found = as_logits(lens.model, PAIRS, by_position.transpose("layer", "position", ...).values)
    np.testing.assert_allclose(found, theirs, **CLOSE)
    assert np.ptp(theirs) > 0.01
    last = as_logits(lens.model, PAIRS, ours(lens, node, "end").head_map.values)
    np.testing.assert_allclose(last, theirs[:, -1], **CLOSE)


@pytest.mark.parametrize("kind", MODELS)
def test_direct_attribution(kind: str, tmp_path: Path) -> None:
    """Embedding, attention and MLP of every layer, every head, and what has accumulated: final norm included."""
    folded = booted(MODELS[kind](), tmp_path)
    folded.enable_compatibility_mode()
    answers = [torch.tensor([getattr(pair, which)[0] for pair in PAIRS]) for which in ("right", "wrong")]

    def theirs(unit: str) -> dict[str, float]:
        with torch.no_grad():
            found = analysis.direct_logit_attribution(folded, _ids(PAIRS, "clean"), *answers, unit=unit)
        return dict(zip(found.labels, found.attribution.mean(-1).tolist(), strict=True))

    (answer,) = logit_attribution(MODELS[kind](), PAIRS, min_accuracy=0.0).answers
    parts, extra = theirs("component"), answer.extra
    embedding = parts["embed"] + parts.get("pos_embed", 0.0)
    np.testing.assert_allclose(extra["component"].sel(component="embedding"), embedding, **CLOSE)
    for name, ending in (("attention", "attn_out"), ("mlp", "mlp_out")):
        expected = [parts[f"{layer}_{ending}"] for layer in (0, 1)]
        np.testing.assert_allclose(extra[name], expected, **CLOSE)
        assert np.ptp(expected) > 0.01
    stages = theirs("layer")
    expected = [stages["0_pre"], stages["1_pre"], stages["final_post"]]
    np.testing.assert_allclose(extra["accumulated"], expected, **CLOSE)
    np.testing.assert_allclose(
        answer.head_map.sum("head") + extra["attention_bias"], extra["attention"], **CLOSE
    )
    # A norm between W_O and the stream (as in Gemma 3) is left out of TransformerLens's single heads, not of their sum.
    if kind != "gemma3":
        heads = theirs("head")
        single = [[heads[f"L{layer}H{head}"] for head in range(4)] for layer in (0, 1)]
        np.testing.assert_allclose(answer.head_map, single, **CLOSE)


def test_attribution_patching(lens: Lens) -> None:
    """Heads and MLPs at every position, to first order: gradients at the corrupt run, values towards the clean one."""
    heads, mlps = np.zeros((2, 4, 8)), np.zeros((2, 8))
    for pair in PAIRS:
        clean, corrupt = (_ids([pair], side) for side in ("clean", "corrupt"))
        found = analysis.attribution_patch(lens.bridge, clean, corrupt, difference([pair])).node_scores
        for node, score in found.items():
            if node.kind == "attn_head_out":
                heads[node.layer, node.head, node.position] += score / len(PAIRS)
            elif node.kind == "mlp_out":
                mlps[node.layer, node.position] += score / len(PAIRS)
    report = attribution_patching(lens.model, PAIRS, ["z", "mlp_out"], at="tokens", min_accuracy=0.0)
    ends = as_logits(lens.model, PAIRS, np.array([0.0, 1.0]))
    for answer, expected in zip(report.answers, (heads, mlps), strict=True):
        scores = answer.extra["by_position"].transpose("layer", ..., "position").values
        np.testing.assert_allclose(scores * (ends[1] - ends[0]), expected, **CLOSE)
        assert np.ptp(expected) > 0.01


def test_edge_attribution(tmp_path: Path) -> None:
    """Every path of a model without grouped heads and without a norm behind W_O, summed over positions."""
    model = small_models.gpt2()
    bridge = booted(small_models.gpt2(), tmp_path)
    ways = {"q_input": "H{head}.q", "k_input": "KV{head}.k", "v_input": "KV{head}.v", "mlp_in": "MLP"}

    def name(node: Any) -> str:
        if node.kind in ("embed", "logits"):
            return "embedding" if node.kind == "embed" else "logits"
        ending = {**ways, "attn_head_out": "H{head}", "mlp_out": "MLP"}[node.kind]
        return f"L{node.layer}." + ending.format(head=node.head)

    expected: dict[tuple[str, str], float] = {}
    config = analysis.EdgeAttributionConfig(granularity="edge")
    for pair in PAIRS:
        clean, corrupt = (_ids([pair], side) for side in ("clean", "corrupt"))
        found = analysis.attribution_patch(bridge, clean, corrupt, difference([pair]), config).edge_scores
        for (sender, receiver), score in found.items():
            path = (name(sender), name(receiver))
            expected[path] = expected.get(path, 0.0) + score / len(PAIRS)
    (answer,) = edge_attribution(model, PAIRS, min_accuracy=0.0).answers
    ends = as_logits(model, PAIRS, np.array([0.0, 1.0]))
    edges = answer.extra["edges"] * (ends[1] - ends[0])
    assert int(edges.notnull().sum()) == len(expected)
    for (sender, receiver), score in expected.items():
        ours = float(edges.sel(sender=sender, receiver=receiver))
        assert ours == pytest.approx(score, abs=1e-3), (sender, receiver)
    assert max(map(abs, expected.values())) > 0.01


def test_real_weights(smollm2: LoadedModel) -> None:
    """Heads of two layers, and streams, attention and MLPs of them, at the last position of a task that is solved."""
    made = list(make_pairs("ioi", smollm2.tokenizer, count=8))
    pairs = [pair for pair in made if len(pair) == len(made[0])][:2]
    other = probe.load(smollm2.name)
    bridge = bridges.TransformerBridge.boot_transformers(
        smollm2.name, hf_model=other.model, tokenizer=other.tokenizer
    )
    layers, last = [20, 23], len(pairs[0]) - 1
    heads = pd.DataFrame([(layer, last, head) for layer in layers for head in range(9)]).set_axis(
        ["layer", "pos", "head"], axis=1
    )
    streams = heads[heads["head"] == 0][["layer", "pos"]].reset_index(drop=True)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(_ids(pairs, "clean"))
        for node in ("z", "resid_pre", "attn_out", "mlp_out"):
            setter = (
                patching.layer_pos_head_vector_patch_setter
                if node == "z"
                else patching.layer_pos_patch_setter
            )
            theirs = patching.generic_activation_patch(
                bridge, _ids(pairs, "corrupt"), cache, difference(pairs), setter, node,
                index_df=heads if node == "z" else streams,
            )  # fmt: skip
            report = activation_patching(smollm2, pairs, node, at="end", layers=layers)
            (answer,) = report.answers
            found = as_logits(smollm2.model, pairs, answer.head_map.values.ravel())
            np.testing.assert_allclose(found, theirs.numpy(), err_msg=node, **CLOSE)
            assert np.ptp(theirs.numpy()) > 0.01
