"""Path patching against whole forwards with plain hooks, a closed form, and a planted circuit."""

import numpy as np
import pytest
import small_models
import tiny
import torch
from copier import copier
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs
from torch import nn

from probe.circuits.path_effects import path_patching
from probe.errors import UnknownNameError, UsageError
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.pairs import Pair, PairSet

D_HEAD = {"llama": 8, "gemma3": 16, "gpt2": 8}
MAKE = {"llama": tiny.llama, "gemma3": tiny.gemma3, "gpt2": small_models.gpt2}
VOCAB = 50


def made(kind: str) -> LoadedModel:
    return LoadedModel(MAKE[kind]().double(), None, kind, ModelSource("given"))


def scores(loaded: LoadedModel, pairs: object, receivers: object, **more: object) -> np.ndarray:
    report = path_patching(loaded, pairs, receivers, min_accuracy=0.0, **more)
    return report.answers[0].head_map.values


class Plain:
    """Path patching of one sender by whole forwards; values are replaced at the modules that make them."""

    def __init__(self, kind: str, model: nn.Module) -> None:
        self.kind, self.model, self.d_head = kind, model, D_HEAD[kind]
        blocks = model.transformer.h if kind == "gpt2" else model.model.layers
        self.out = [b.attn.c_proj if kind == "gpt2" else b.self_attn.o_proj for b in blocks]
        self.mlp = [b.mlp for b in blocks]
        self.blocks = blocks

    def part(self, receiver: tuple[int, int, str]) -> tuple[nn.Module, slice]:
        """The module that makes a receiver's value, and where in its output; unit counts key/value heads for k, v."""
        layer, unit, name = receiver
        place = slice(unit * self.d_head, (unit + 1) * self.d_head)
        if self.kind == "gpt2":
            shift = "qkv".index(name) * self.d_head * 4
            return self.blocks[layer].attn.c_attn, slice(place.start + shift, place.stop + shift)
        return getattr(self.blocks[layer].self_attn, f"{name}_proj"), place

    def run(self, ids: torch.Tensor, inputs: dict, outputs: dict) -> dict:
        """Values of every module in a forward in which some inputs and outputs are replaced (by functions)."""
        seen, handles = {}, []
        for module in {
            *self.out,
            *self.mlp,
            *(self.part((n, 0, one))[0] for n in range(len(self.blocks)) for one in "qkv"),
        }:

            def before(m: nn.Module, args: tuple) -> tuple:
                value = inputs[m](args[0]) if m in inputs else args[0]
                seen["in", m] = value
                return (value, *args[1:])

            def after(m: nn.Module, _args: tuple, output: torch.Tensor) -> torch.Tensor:
                value = outputs[m](output) if m in outputs else output
                seen["out", m] = value
                return value

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        with torch.no_grad():
            seen["logits"] = self.model(input_ids=ids).logits[:, -1]
        for handle in handles:
            handle.remove()
        return seen

    def effect(
        self, pair: Pair, sender: tuple[int, int], receiver: object, at: int | None, frozen: bool
    ) -> tuple:
        clean_ids, corrupt_ids = (torch.tensor([one.tokens]) for one in (pair.clean, pair.corrupt))
        clean, corrupt = self.run(clean_ids, {}, {}), self.run(corrupt_ids, {}, {})
        layer, head = sender
        place = slice(head * self.d_head, (head + 1) * self.d_head)
        positions = slice(None) if at is None else slice(at, at + 1)

        def send(value: torch.Tensor) -> torch.Tensor:
            value = value.clone()
            value[:, positions, place] = corrupt["in", self.out[layer]][:, positions, place]
            return value

        held = lambda key: lambda _value: clean[key]  # noqa: E731
        inputs = {self.out[layer]: send} | {m: held(("in", m)) for m in self.out[layer + 1 :]}
        outputs = {m: held(("out", m)) for m in self.mlp[layer:]} if frozen else {}
        first = self.run(clean_ids, inputs, outputs)
        if receiver == "logits":
            return clean["logits"], corrupt["logits"], first["logits"]
        module, part = self.part(receiver)

        def receive(value: torch.Tensor) -> torch.Tensor:
            value = value.clone()
            value[..., part] = first["out", module][..., part]
            return value

        return clean["logits"], corrupt["logits"], self.run(clean_ids, {}, {module: receive})["logits"]


def expected(
    kind: str, loaded: LoadedModel, pairs: list[Pair], receiver: object, at: str, frozen: bool, layers: int
):
    plain = Plain(kind, loaded.model)
    found = np.zeros((layers, 4))
    for layer in range(layers):
        for head in range(4):
            up = down = 0.0
            for pair in pairs:
                place = None if at == "all" else pair.marks[at]
                clean, corrupt, patched = (
                    float(one[0, pair.right[0]] - one[0, pair.wrong[0]])
                    for one in plain.effect(pair, (layer, head), receiver, place, frozen)
                )
                up, down = up + patched - clean, down + corrupt - clean
            found[layer, head] = up / down
    return found


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("at", ["end", "all"])
@pytest.mark.parametrize("kind", list(MAKE))
def test_paths_to_the_logits_are_those_of_whole_forwards(kind: str, at: str, frozen: bool) -> None:
    loaded, pairs = made(kind), random_pairs(VOCAB, 3, 9)
    got = scores(loaded, pairs, "logits", at=at, mlps="frozen" if frozen else "free")
    np.testing.assert_allclose(got, expected(kind, loaded, pairs, "logits", at, frozen, 2), atol=1e-6)


@pytest.mark.parametrize("name", ["L1.H3.q", "L1.H3.k", "L1.H3.v"])
@pytest.mark.parametrize("kind", list(MAKE))
def test_paths_to_heads_are_those_of_whole_forwards(kind: str, name: str) -> None:
    loaded, pairs = made(kind), random_pairs(VOCAB, 3, 9, seed=1)
    group = {"llama": 2, "gemma3": 4, "gpt2": 1}[kind] if name[-1] != "q" else 1
    receiver = (1, 3 // group, name[-1])
    for frozen in (False, True):
        got = scores(loaded, pairs, name, at="all", mlps="frozen" if frozen else "free")
        np.testing.assert_allclose(got, expected(kind, loaded, pairs, receiver, "all", frozen, 1), atol=1e-6)


def test_without_a_norm_the_direct_path_is_the_head_s_own_share_of_the_logits() -> None:
    model = tiny.llama().double()
    for block in model.model.layers:
        block.input_layernorm = block.post_attention_layernorm = nn.Identity()
    model.model.norm = nn.Identity()
    loaded, pairs = LoadedModel(model, None, "plain", ModelSource("given")), random_pairs(64, 4, 9, seed=2)
    got = path_patching(loaded, pairs, min_accuracy=0.0, mlps="frozen").answers[0].by_prompt.values
    plain = Plain("llama", model)
    gap, wanted = 0.0, np.zeros((len(pairs), 2, 4))
    for number, pair in enumerate(pairs):
        clean, corrupt = (plain.run(torch.tensor([one.tokens]), {}, {}) for one in (pair.clean, pair.corrupt))
        axis = model.lm_head.weight[pair.right[0]] - model.lm_head.weight[pair.wrong[0]]
        gap += float(
            (clean["logits"][0] - corrupt["logits"][0])[[*pair.right, *pair.wrong]]
            @ torch.tensor([1.0, -1.0]).double()
        )
        for layer, module in enumerate(plain.out):
            difference = (corrupt["in", module] - clean["in", module])[0, -1].unflatten(0, (4, 8))
            write = torch.einsum("hd,mhd->hm", difference, module.weight.unflatten(1, (4, 8)))
            wanted[number, layer] = (write @ axis).detach().numpy()
    np.testing.assert_allclose(got, wanted / (-gap / len(pairs)), atol=1e-9)


def test_a_previous_token_head_reaches_an_induction_head_through_its_keys_alone() -> None:
    loaded = copier(list("abcdefgh"))
    texts = [("a b c d a", "c b a d a", "b", "d"), ("e f g h e", "g f e h e", "f", "h")]
    pairs = []
    for one, two, right, wrong in texts:
        prompts = [
            Prompt.of(text, loaded.tokenizer, answer=f" {said}")
            for text, said in ((one, right), (two, wrong))
        ]
        pairs.append(Pair.of(*prompts, loaded.tokenizer))
    ends = [f"L1.H0.{part}" for part in "qkv"]
    answer = path_patching(loaded, pairs, ends, at="all").answers[0]
    by = answer.extra["by_receiver"].sel(layer=0)
    assert by.sel(receiver="L1.H0.k", head=0) == pytest.approx(1, abs=0.02)
    assert np.abs(by.sel(receiver=["L1.H0.q", "L1.H0.v"]).values).max() < 0.02
    assert np.abs(by.sel(head=1).values).max() < 1e-6, "the other head does nothing"
    assert answer.head_map.sel(layer=0, head=0) == pytest.approx(1, abs=0.02)
    edges = answer.extra["edges"]
    best = int(np.argmax(edges.values))
    assert (str(edges.sender[best].values), str(edges.receiver[best].values)) == ("L0.H0", "L1.H0.k")
    # The copying head is the only one that the logits hear of this.
    direct = path_patching(loaded, pairs, at="end").answers[0].head_map
    assert direct.sel(layer=1, head=0) == pytest.approx(1, abs=0.02)
    assert abs(float(direct.sel(layer=0, head=0))) < 0.02


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**16), mlps=st.sampled_from(["free", "frozen"]))
def test_where_both_runs_agree_nothing_is_sent(seed: int, mlps: str) -> None:
    pairs = [
        Pair(
            p.id, p.clean, p.corrupt, p.right, p.wrong, {"cue": p.marks["cue"], "before": p.marks["cue"] - 1}
        )
        for p in random_pairs(64, 6, 9, seed)
        if p.marks["cue"] > 0
    ]
    if len(pairs) == 0:
        return
    for receiver in ("logits", "L1.H0.k"):
        assert np.abs(scores(made("llama"), pairs, receiver, at="before", mlps=mlps)).max() < 1e-9


def test_pairs_of_several_lengths_keep_their_order() -> None:
    loaded = made("llama")
    mixed = [*random_pairs(64, 2, 9), *random_pairs(64, 2, 7, seed=3), *random_pairs(64, 1, 9, seed=4)]
    pairs = [Pair(str(n), p.clean, p.corrupt, p.right, p.wrong) for n, p in enumerate(mixed)]
    whole = path_patching(loaded, pairs, "L1.H1.v", min_accuracy=0.0, at="all").answers[0]
    gap = whole_gap(loaded, pairs)
    for number, pair in enumerate(pairs):
        alone = path_patching(loaded, [pair], "L1.H1.v", min_accuracy=0.0, at="all").answers[0].by_prompt[0]
        np.testing.assert_allclose(
            whole.by_prompt[number] * gap, alone * whole_gap(loaded, [pair]), atol=1e-6
        )


def whole_gap(loaded: LoadedModel, pairs: list[Pair]) -> float:
    total = 0.0
    for pair in pairs:
        both = torch.tensor([pair.clean.tokens, pair.corrupt.tokens])
        one, two = loaded.model(input_ids=both).logits[:, -1].detach()
        total += float((one - two)[pair.right[0]] - (one - two)[pair.wrong[0]])
    return total / len(pairs)


def test_positions_one_by_one_and_chosen_senders() -> None:
    loaded, pairs = made("llama"), random_pairs(64, 2, 6, seed=5)
    answer = path_patching(
        loaded, pairs, "L1.H0.q", senders=["L0.H2"], at="tokens", min_accuracy=0.0
    ).answers[0]
    assert answer.extra["by_position"].sizes["position"] == 6
    values = answer.head_map.sel(layer=0).values
    assert np.isnan(values[[0, 1, 3]]).all()
    assert np.isfinite(values[2])
    assert answer.extra["edges"].sizes["edge"] == 1


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"receivers": "L0.H1.q"}, UsageError, "none of them before"),
        ({"receivers": "L1.H0.q", "senders": ["L1.H1"]}, UsageError, "senders must be in earlier layers"),
        ({"receivers": "L1.H9.q"}, UnknownNameError, "L1.H9"),
        ({"senders": ["L7.H0"]}, UnknownNameError, "L7.H0"),
        ({"receivers": "L1.H0.z"}, UsageError, "queries, keys or values"),
        ({"receivers": "L1.H0"}, UsageError, "queries, keys or values"),
        ({"receivers": []}, UsageError, "no receiver"),
        ({"receivers": ["logits", "L1.H0.q"]}, UsageError, "stands alone"),
        ({"mlps": "melted"}, UsageError, "melted"),
        ({"at": "s2"}, UnknownNameError, "s2"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(changes: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        path_patching(
            (tiny.llama(), None), PairSet("given", tuple(random_pairs(64))), min_accuracy=0.0, **changes
        )
