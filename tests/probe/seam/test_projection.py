"""W_O is found by shape and by what it is given; heads' outputs and bias sum to the module's output."""

from typing import Any

import pytest
import torch
from subjects.catalogue import SUBJECTS
from torch import Tensor, nn
from transformers import AttentionInterface

from probe.errors import CaptureError
from probe.seam.places import places
from probe.seam.projection import Projection, ProjectionWatch, choose, head_slices, linear_maps, matrix

NAMES = [
    "llama",
    "llama-mha",
    "gpt2",
    "bert",
    "gemma3",
    "qwen3",
    "gpt-oss",
    "t5",
    "deepseek-v3",
    "whisper",
    "vit",
]
CHANGED = ["bitnet", "qwen3-next"]  # z is normed, or gated, before the projection

Found = list[tuple[str, Projection, Tensor]]


def watched(name: str) -> tuple[nn.Module, Found, dict[str, Tensor]]:
    """A tiny model run once; every projection found, and what each linear map returned."""
    model = SUBJECTS[name].model()
    where = places(model)
    names = {id(model.get_submodule(n)): n for n in where}
    found: Found = []
    returned: dict[str, Tensor] = {}
    watch = ProjectionWatch(model, list(where), lambda n, p, x: found.append((n, p, x)))

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        # No mask and no sinks: the projection is a law about any z.
        pattern = (query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).mT).softmax(-1)
        z = pattern @ value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        watch.seen(names[id(module)], z)
        return z.transpose(1, 2).contiguous(), None

    def note(inner: str) -> Any:
        return lambda _m, _a, out: returned.__setitem__(inner, out)

    for inner, module in model.named_modules():
        module.register_forward_hook(note(inner))
    AttentionInterface.register("watched", attention)
    try:
        model.set_attn_implementation("watched")
        with torch.no_grad():
            model(**SUBJECTS[name].inputs(model))
    finally:
        AttentionInterface._global_mapping.pop("watched")
        watch.close()
    return model, found, returned


@pytest.mark.parametrize("name", NAMES + CHANGED)
def test_heads_and_bias_sum_to_what_the_projection_returns(name: str) -> None:
    """Σ_h head_out[h] + bias equals the output of W_O, in every layer and tower."""
    _, found, returned = watched(name)
    assert found
    for _, projection, given in found:
        parts = projection.head_out(given, list(range(projection.n_heads)))
        bias = projection.module.bias
        whole = parts.sum(1) if bias is None else parts.sum(1) + bias
        assert torch.allclose(whole, returned[projection.name].reshape(whole.shape), atol=1e-5)
        assert projection.exact is (name not in CHANGED)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-oss"])
def test_the_projections_output_is_the_attention_modules_output(name: str) -> None:
    """Where the projection lies inside the attention module, their outputs are one."""
    _, found, returned = watched(name)
    for attention, projection, _ in found:
        assert torch.equal(returned[projection.name], returned[attention][0])


def test_every_layer_that_attends_is_found_once() -> None:
    """An encoder-decoder gives one projection per self- and cross-attention."""
    model, found, _ = watched("t5")
    assert sorted(name for name, _, _ in found) == sorted(places(model))


def test_a_map_that_is_not_a_plain_matrix_is_applied_head_by_head() -> None:
    """Wrapped linear maps (adapters, quantised weights) give the same parts as their matrix."""

    class Adapter(nn.Linear):
        """A linear map that adds a low-rank one, as adapters do."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 2.0 * x.flip(-1) @ self.weight.T

    adapter, given = Adapter(8, 6), torch.randn(1, 3, 8)
    assert matrix(adapter) is None
    parts = Projection("o", adapter, 4, 2, True).head_out(given, [0, 1, 2, 3])
    assert torch.allclose(parts.sum(1) + adapter.bias, adapter(given), atol=1e-6)


def test_ambiguity_is_an_error_that_names_the_maps() -> None:
    """Two maps of fitting width, neither given z nor making the output: nothing is guessed."""
    z = torch.randn(1, 2, 3, 4)
    other = {
        "gate": (torch.randn(1, 3, 8), torch.randn(1, 3, 5)),
        "out": (torch.randn(1, 3, 8), torch.randn(1, 3, 5)),
    }
    with pytest.raises(CaptureError, match="gate, out"):
        choose("layer.attn", z, other, torch.randn(1, 3, 5))
    with pytest.raises(CaptureError, match="none"):
        choose("layer.attn", z, {}, torch.randn(1, 3, 5))


def test_the_map_that_is_given_z_wins() -> None:
    """Among maps of equal width the one that was given z itself is W_O."""
    z = torch.randn(1, 2, 3, 4)
    flat = z.transpose(1, 2).flatten(2)
    maps = {"gate": (torch.randn(1, 3, 8), torch.randn(1, 3, 8)), "out": (flat, torch.randn(1, 3, 8))}
    assert choose("layer.attn", z, maps, None) == ("out", True)


def test_hooks_are_taken_off() -> None:
    """Closing a watch leaves no hook."""
    model = SUBJECTS["llama"].model()
    ProjectionWatch(model, list(places(model)), lambda *_: None).close()
    assert not any(module._forward_hooks for module in model.modules())


def test_linear_maps_of_bert_reach_beside_the_attention_module() -> None:
    """BERT's projection lies beside its attention module, inside the block's child that holds both."""
    model = SUBJECTS["bert"].model()
    name = next(iter(places(model)))
    assert any(inner.endswith("attention.output.dense") for inner in linear_maps(model, name))


def test_head_slices_tile_the_width() -> None:
    """The slices of the heads cover the projection's input once, in order."""
    assert head_slices(3, 4) == [slice(0, 4), slice(4, 8), slice(8, 12)]
