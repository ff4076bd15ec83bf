"""Captured arrays equal the model's own, are labelled by real tokens, and hold only what was asked."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects.catalogue import SUBJECTS
from torch import nn

import probe
from probe.analysis.captured import Captured
from probe.analysis.captured.positions import Positions
from probe.errors import CaptureError, UnknownNameError, UsageError
from probe.prompts import Prompt

EVERYTHING = [
    "pattern", "scores", "lse", "z", "head_out", "q", "k", "v", "resid_pre", "resid_post", "mlp_out",
]  # fmt: skip
DECODERS = ["llama", "gpt2", "gemma3", "mistral-window", "gpt-oss", "qwen3", "gemma2"]
TOKENS = [11, 12, 13, 11, 12, 17, 18, 19, 20, 21]


def prompt(tokens: list[int] | None = None) -> Prompt:
    return Prompt.of_tokens(tokens or TOKENS, spans={"needle": (3, 6)})


def attentions(model: nn.Module, **inputs: Any) -> Any:
    """What the model returns under eager attention with every map and hidden state."""
    model.set_attn_implementation("eager")  # type: ignore[operator]
    with torch.no_grad():
        return model(**inputs, output_attentions=True, output_hidden_states=True)


def native(name: str) -> nn.Module:
    return SUBJECTS[name].model()


def ids(tokens: list[int] | None = None) -> torch.Tensor:
    return torch.tensor([tokens or TOKENS])


@pytest.mark.parametrize("mode", ["shadow", "fused"])
@pytest.mark.parametrize("name", DECODERS)
def test_pattern_and_residual_stream_equal_the_models_own(name: str, mode: Any) -> None:
    """Patterns are eager's attention weights, and resid_pre is transformers' hidden_states."""
    output = attentions(native(name), input_ids=ids())
    maps = probe.capture(native(name), prompt(), ["pattern", "resid_pre"], mode=mode)
    expected = np.stack([one[0].numpy() for one in output.attentions])
    np.testing.assert_allclose(maps["pattern"].values, expected, atol=2e-5)
    hidden = np.stack([one[0].numpy() for one in output.hidden_states[:-1]])
    np.testing.assert_allclose(maps["resid_pre"].values, hidden, atol=1e-4)


@pytest.mark.parametrize("name", [*DECODERS, "bert", "t5", "vit"])
def test_the_models_own_attention_and_our_kernels_give_the_same(name: str) -> None:
    """Every array is alike in shadow and in fused mode, in every tower."""
    subject = SUBJECTS[name]
    inputs = subject.inputs(subject.model(), batch=1)
    shadow = probe.capture(native(name), inputs, EVERYTHING)
    fused = probe.capture(native(name), inputs, EVERYTHING, mode="fused")
    assert list(shadow) == list(fused) == [n for n in shadow if n in EVERYTHING]
    assert len(shadow) == len(EVERYTHING)
    for array in EVERYTHING:
        ours, theirs = fused.layers(array), shadow.layers(array)
        assert ours.keys() == theirs.keys()
        for layer, values in ours.items():
            np.testing.assert_allclose(values.values, theirs[layer].values, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "gpt-oss", "gemma2"])
def test_arrays_of_one_layer_fit_together(name: str) -> None:
    """pattern = e^(scores - lse), z = pattern·v, and head_out and bias sum to what the attention module returns."""
    model = native(name)
    returned: list[torch.Tensor] = []
    biases = []
    for module_name, module in model.named_modules():
        if module_name.rpartition(".")[2] in {"self_attn", "attn"}:
            module.register_forward_hook(lambda _m, _a, out: returned.append(out[0].detach()))
            last = [one for one in module.children() if getattr(one, "weight", torch.empty(0)).ndim == 2][-1]
            biases.append(0.0 if last.bias is None else last.bias.numpy())
    maps = probe.capture(model, prompt(), EVERYTHING)
    scores, lse = maps["scores"], maps["lse"]
    np.testing.assert_allclose(np.exp(scores - lse).values, maps["pattern"].values, atol=1e-6)
    group = maps["pattern"].sizes["head"] // maps["v"].sizes["kv_head"]
    z = maps["pattern"].values @ maps["v"].values.repeat(group, axis=1)
    np.testing.assert_allclose(maps["z"].values, z, rtol=1e-4, atol=1e-4)
    whole = [maps["head_out"].values[layer].sum(0) + biases[layer] for layer in range(len(biases))]
    np.testing.assert_allclose(whole, [one[0].numpy() for one in returned[-len(biases) :]], atol=1e-4)


def test_shadow_z_is_bit_for_bit_what_the_model_made() -> None:
    """In shadow mode z is the model's own, so that its projection reproduces the module's output exactly."""
    model = native("llama")
    maps = probe.capture(model, prompt(), ["z"])
    given: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids(), use_cache=False)
    heads = maps["z"].sizes["head"]
    own = torch.stack([one[0].unflatten(-1, (heads, -1)).transpose(0, 1) for one in given])
    np.testing.assert_array_equal(maps["z"].values, own.numpy())


@settings(max_examples=6, deadline=None)
@given(
    rows=st.lists(st.integers(-10, 9), min_size=1, max_size=4),
    columns=st.slices(10).filter(lambda s: (s.step or 1) > 0 and len(range(10)[s]) > 0),
    heads=st.sets(st.integers(0, 3), min_size=1),
    mode=st.sampled_from(["shadow", "fused"]),
)
def test_asking_for_less_gives_a_part_of_the_whole(rows: Any, columns: Any, heads: Any, mode: Any) -> None:
    """Any choice of rows, keys and heads is the same part of the whole array."""
    model = native("llama")
    whole = probe.capture(model, prompt(), EVERYTHING, mode=mode)
    part = probe.capture(model, prompt(), EVERYTHING, [1], sorted(heads), rows, columns, mode=mode)
    kept_rows = sorted({row % 10 for row in rows})
    kept_keys = list(range(10))[columns]
    groups = sorted({head // 2 for head in heads})
    at = {
        "query_pos": kept_rows,
        "token": kept_rows,
        "key_pos": kept_keys,
        "head": sorted(heads),
        "kv_head": groups,
    }
    for name in EVERYTHING:
        expected = whole[name].sel(layer=[1])
        expected = expected.isel({axis: index for axis, index in at.items() if axis in expected.dims})
        np.testing.assert_allclose(part[name].values, expected.values, rtol=1e-4, atol=1e-5)
        for axis in expected.dims:
            if axis in expected.coords:
                assert list(part[name].coords[axis].values) == list(expected.coords[axis].values)


def test_tokens_are_coordinates() -> None:
    """Rows and keys carry their token strings and indices; heads and layers their numbers."""
    maps = probe.capture(
        native("llama"), prompt(), ["pattern", "k", "resid_post"], ["L1"], ["L1.H2"], "needle", "last"
    )
    pattern = maps["pattern"]
    assert pattern.dims == ("layer", "head", "query_pos", "key_pos")
    assert pattern.coords["query_token"].values.tolist() == ["11", "12", "17"]
    assert pattern.coords["query_pos"].values.tolist() == [3, 4, 5]
    assert pattern.coords["key_token"].values.tolist() == ["21"]
    assert (pattern.coords["layer"].item(), pattern.coords["head"].item()) == (1, 2)
    assert maps["k"].coords["kv_head"].values.tolist() == [1]
    assert maps["resid_post"].coords["str_token"].values.tolist() == ["11", "12", "17"]


def test_head_names_choose_their_layers() -> None:
    """Heads by name bring their layers with them, each layer its own heads."""
    maps = probe.capture(native("llama"), prompt(), ["z"], heads=["L0.H1", "L1.H0", "L1.H3"])
    layers = maps.layers("z")
    assert {name: one.coords["head"].values.tolist() for name, one in layers.items()} == {
        "L0": [1],
        "L1": [0, 3],
    }
    with pytest.raises(UsageError, match=r"layers that differ .*L0.*L1.*layers\('z'\)"):
        maps["z"]


def test_layers_that_were_not_asked_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are formed for the asked layer and rows alone."""
    from probe.analysis.captured import cut

    asked: list[tuple[int, int, int]] = []
    real = cut.score_block

    def counting(scores: Any, layout: Any, rows: Any, keys: Any) -> Any:
        asked.append((scores.query.shape[1], len(rows), scores.key.shape[2]))
        return real(scores, layout, rows, keys)

    monkeypatch.setattr(cut, "score_block", counting)
    probe.capture(native("llama"), prompt(), ["pattern"], [1], [2], [7, 8])
    assert asked == [(1, 2, 10)]


def test_left_padding_and_batches_change_nothing() -> None:
    """A padded batch gives each prompt the arrays that it has alone; indices count real tokens."""
    model = native("llama")
    short, long = TOKENS[:6], TOKENS
    tokens = torch.tensor([[0] * 4 + short, long])
    mask = (torch.arange(10)[None] >= torch.tensor([[4], [0]])).long()
    together = probe.capture(model, {"input_ids": tokens, "attention_mask": mask}, EVERYTHING)
    for number, one in enumerate((short, long)):
        alone = probe.capture(model, prompt_of(one), EVERYTHING)
        mine = together.prompt(number)
        for name in EVERYTHING:
            if name in ("q", "k"):  # RoPE turns q and k by positions, which padding shifts
                continue
            np.testing.assert_allclose(mine[name].values, alone[name].values, rtol=1e-4, atol=2e-5)
            for axis in ("query_pos", "key_pos", "token"):
                if axis in alone[name].coords:
                    assert mine[name].coords[axis].values.tolist() == list(range(len(one)))
        assert mine["pattern"].coords["query_token"].values.tolist() == [str(token) for token in one]


def prompt_of(tokens: list[int]) -> Prompt:
    return Prompt.of_tokens(tokens)


def test_several_prompts_are_kept_apart() -> None:
    """Prompts of a list are numbered in order; asking for all at once says how to choose."""
    model = native("gpt2")
    maps = probe.capture(model, [prompt(), prompt(TOKENS[::-1])], ["pattern"])
    assert maps.prompts == [0, 1]
    with pytest.raises(UsageError, match=r"several prompts \(0, 1\).*maps\.prompt\(0\)"):
        maps["pattern"]
    alone = probe.capture(model, prompt(TOKENS[::-1]), ["pattern"])
    np.testing.assert_allclose(maps.prompt(1)["pattern"].values, alone["pattern"].values, atol=1e-6)


def test_towers_are_told_apart() -> None:
    """An encoder-decoder gives encoder, decoder and cross patterns, equal to its own, each with its tokens."""
    subject = SUBJECTS["t5"]
    inputs = subject.inputs(subject.model(), batch=1)
    output = attentions(subject.model(), **inputs)
    maps = probe.capture(subject.model(), inputs, ["pattern"])
    assert maps.towers == ["cross", "decoder", "encoder"]
    for tower, own in (
        ("encoder", output.encoder_attentions),
        ("decoder", output.decoder_attentions),
        ("cross", output.cross_attentions),
    ):
        mine = maps.tower(tower)["pattern"]
        np.testing.assert_allclose(mine.values, np.stack([one[0].numpy() for one in own]), atol=2e-5)
    assert len(maps.tower("cross")["pattern"].coords["key_token"]) == inputs["input_ids"].shape[1]
    assert maps.layers("pattern").keys() >= {"enc.L0", "L0", "cross.L1"}
    only = probe.capture(subject.model(), inputs, ["pattern"], ["cross.L1"])
    assert (only.towers, list(only.layers("pattern"))) == (["cross"], ["cross.L1"])


def test_a_model_that_bypasses_the_registry_gives_its_pattern_and_refuses_the_rest() -> None:
    """Bloom's pattern comes from the weights it returns; z cannot be seen and is refused."""
    maps = probe.capture(native("bloom"), prompt(), ["pattern"])
    own = attentions(native("bloom"), input_ids=ids()).attentions
    np.testing.assert_allclose(maps["pattern"].values, np.stack([one[0].numpy() for one in own]), atol=1e-5)
    assert any("bypasses" in note for note in maps.notes)
    with pytest.raises(CaptureError, match=r"z of .* was asked; this model bypasses"):
        probe.capture(native("bloom"), prompt(), ["z"])


def test_a_gated_z_is_said_and_still_sums_to_the_output() -> None:
    """Where the model norms z before W_O, head_out is what the projection was given, and a note says so."""
    maps = probe.capture(native("bitnet"), prompt(), ["head_out"])
    assert any("changes z before W_O" in note for note in maps.notes)


@pytest.mark.parametrize("mode", ["shadow", "fused"])
def test_an_edit_in_force_is_seen(mode: Any) -> None:
    """Under probe.edit the pattern and z that are captured are the edited ones, in either mode."""
    model = native("llama")
    names = ["pattern", "scores", "lse", "z"]
    before = probe.capture(model, prompt(), names, [0], mode=mode)
    with probe.edit(model, [probe.interventions.knockout(queries="all", keys=(0, 3), heads=["L0.H1"])]):
        after = probe.capture(model, prompt(), names, [0], mode=mode)
    cut, kept = after["pattern"].sel(layer=0, head=1), after["pattern"].sel(layer=0, head=2)
    assert float(before["pattern"].sel(head=1, key_pos=slice(0, 2)).max()) > 0
    assert float(cut.sel(key_pos=slice(0, 2)).max()) == 0
    np.testing.assert_allclose(cut.sel(query_pos=slice(3, None)).sum("key_pos").values, 1.0, atol=1e-5)
    np.testing.assert_allclose(kept.values, before["pattern"].sel(layer=0, head=2).values, atol=1e-6)
    z = cut.values @ probe.capture(model, prompt(), ["v"], [0])["v"].values[0, 0]
    np.testing.assert_allclose(after["z"].sel(layer=0, head=1).values[3:], z[3:], rtol=1e-4, atol=1e-4)
    assert any("before the edits" in note for note in after.notes)


def test_the_model_is_left_as_it_was() -> None:
    """After a capture, and after one that failed, the model has no hooks and its own attention."""
    model = native("llama")
    before = model.config._attn_implementation
    probe.capture(model, prompt(), EVERYTHING, mode="fused")
    with pytest.raises(UnknownNameError):
        probe.capture(model, prompt(), ["head_out"], heads=[9])
    assert model.config._attn_implementation == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bfloat16_is_widened_without_loss() -> None:
    """NumPy has no bfloat16: z of a bfloat16 model comes as float32 with the same values."""
    model = native("llama").to(torch.bfloat16)
    maps = probe.capture(model, prompt(), ["z", "pattern"])
    assert maps["z"].dtype == maps["pattern"].dtype == np.float32
    rounded = torch.from_numpy(maps["z"].values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(maps["z"].values, rounded)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"what": ["patern"]}, UnknownNameError, "did you mean 'pattern'"),
        ({"what": []}, UsageError, "nothing was asked"),
        ({"layers": [7]}, UnknownNameError, "unknown layer 'L7'"),
        ({"layers": ["enc.L0"]}, UnknownNameError, "unknown layer 'enc.L0'"),
        ({"layers": ["first"]}, UsageError, "layers are numbers"),
        ({"heads": [4]}, UnknownNameError, "unknown head 'L0.H4'"),
        ({"heads": []}, UsageError, "leave it out"),
        ({"queries": "nedle"}, UnknownNameError, "did you mean 'needle'"),
        ({"queries": [10]}, UsageError, "there are 10 tokens"),
        ({"queries": slice(3, 3)}, UsageError, "none of the 10 tokens"),
        ({"keys": slice(None, None, -1)}, UsageError, "forwards"),
        ({"mode": "quick"}, UsageError, "'shadow' and 'fused'"),
        ({"generate": 0}, UsageError, "at least 1"),
    ],
)
def test_what_does_not_exist_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Unknown arrays, layers, heads, spans and positions are refused before anything is captured."""
    with pytest.raises(error, match=message):
        probe.capture(native("llama"), prompt(), **{"what": ["pattern"], **arguments})


def test_positions_that_are_no_positions_are_refused() -> None:
    """Positions are a slice, indices or span names, and not a mixture."""
    for asked in ([1.5], [1, "needle"], [], [True]):
        with pytest.raises(UsageError, match="give a slice, a list of token indices, or span names"):
            Positions.of("keys", asked)


def test_generation_is_refused_where_the_model_cannot() -> None:
    """An encoder cannot generate."""
    with pytest.raises(UsageError, match="cannot generate"):
        probe.capture(native("vit"), SUBJECTS["vit"].inputs(native("vit"), batch=1), generate=2)


def test_result_reads_like_a_mapping() -> None:
    """A capture is a mapping of the names that were asked."""
    maps = probe.capture(native("llama"), prompt(), ["z", "pattern"])
    assert isinstance(maps, Captured)
    assert (list(maps), len(maps), "lse" in maps) == (["pattern", "z"], 2, False)
    with pytest.raises(UnknownNameError, match="unknown captured array 'lse'"):
        maps["lse"]


def test_real_weights_and_words(smollm2: probe.LoadedModel) -> None:
    """On SmolLM2, one head's pattern is eager's, in either mode, with the text's own tokens along it."""
    text = "The quick brown fox jumps over the lazy dog. The quick brown fox sleeps."
    own = attentions_of(smollm2, text)
    for mode in ("shadow", "fused"):
        maps = probe.capture(smollm2, text, ["pattern", "z"], layers=[18], heads=[6], mode=mode)
        np.testing.assert_allclose(maps["pattern"].values[0, 0], own[18][0, 6].numpy(), atol=1e-4)
    assert maps["pattern"].coords["key_token"].values[:4].tolist() == ["The", " quick", " brown", " fox"]
    assert maps["z"].dims == ("layer", "head", "query_pos", "d_head")


def attentions_of(loaded: probe.LoadedModel, text: str) -> Any:
    """Eager's attention weights; the model goes back to the attention that it had."""
    before = loaded.model.config._attn_implementation
    try:
        return attentions(loaded.model, **loaded.tokenizer(text, return_tensors="pt")).attentions
    finally:
        loaded.model.set_attn_implementation(before)
