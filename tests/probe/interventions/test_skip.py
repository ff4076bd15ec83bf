"""Skipped layers and modules, held against models without them."""

from dataclasses import replace

import pytest
import torch
from small_models import bert, gpt2, letters, llama, t5, vit
from subjects.state import state

import probe
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import make
from probe.interventions.redundancy import least, spaced
from probe.interventions.skip_layer import skip_layer
from probe.interventions.skip_module import skip_module

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])


def deep(**changes):
    """Four layers in float64."""
    return llama(num_hidden_layers=4, **changes).double()


def without(model, *layers):
    """The same model with blocks taken out."""
    keep = [block for i, block in enumerate(model.model.layers) if i not in layers]
    model.model.layers = torch.nn.ModuleList(keep)
    for i, block in enumerate(keep):
        block.self_attn.layer_idx = i
    model.config.num_hidden_layers = len(keep)
    return model


def cut(model, layer, kind):
    """The same model whose attention or MLP of a layer was zeroed by surgery."""
    block = model.model.layers[layer]
    with torch.no_grad():
        (block.self_attn.o_proj if kind == "attention" else block.mlp.down_proj).weight.zero_()
    return model


def edited(model, *interventions, ids=IDS, **inputs):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(ids, **inputs).logits


def test_a_skipped_layer_is_a_model_without_it():
    """In one forward, with left padding in a batch of 2, and in every way of generating."""
    model, smaller = deep(), without(deep(), 1, 2)
    ids = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.int64), IDS[:, :9]], 1), IDS])
    mask = (torch.arange(12)[None] >= torch.tensor([[3], [0]])).long()
    found = edited(model, skip_layer([1, 2]), ids=ids, attention_mask=mask)
    torch.testing.assert_close(found[mask.bool()], smaller(ids, attention_mask=mask).logits[mask.bool()])
    for options in ({"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}):
        options = {**options, "max_new_tokens": 5, "attention_mask": mask, "pad_token_id": 0}
        torch.manual_seed(0)
        with probe.edit(model, [skip_layer([1, 2])]):
            mine = model.generate(ids, **options)
        torch.manual_seed(0)
        assert torch.equal(mine, smaller.generate(ids, **options))


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_a_skipped_module_is_a_model_whose_projection_is_zero(kind):
    """In one forward and token by token with a cache."""
    model, cut_model = deep(), cut(deep(), 2, kind)
    torch.testing.assert_close(edited(model, skip_module(kind, [2])), cut_model(IDS).logits)
    with probe.edit(model, [skip_module(kind, [2])]):
        mine = model.generate(IDS, max_new_tokens=6, do_sample=False)
    assert torch.equal(mine, cut_model.generate(IDS, max_new_tokens=6, do_sample=False))


def test_chosen_tokens_skip_and_the_others_do_not():
    """With queries, rows before the chosen ones keep their logits; later rows see the block's keys as they were."""
    model = deep()
    one = skip_layer([3], queries=(4, 7))
    found, base, whole = edited(model, one), model(IDS).logits, edited(model, skip_layer([3]))
    rows = torch.zeros(12, dtype=torch.bool)
    rows[4:7] = True
    torch.testing.assert_close(
        found[:, ~rows], base[:, ~rows]
    )  # the last layer: no row sees another's output
    torch.testing.assert_close(found[:, rows], whole[:, rows])
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), IDS], 1)
    mask = (torch.arange(16) >= 4).long()[None]
    again = edited(
        model, one, ids=padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0)
    )
    torch.testing.assert_close(again[:, 4:], found)


def test_skipping_at_decode_only():
    """The prompt's forward is the model's own; each later step is the skipped one, on the prompt's full cache."""
    model = deep()
    with probe.edit(model, [skip_layer([3], phase="decode")]), torch.no_grad():
        first = model(IDS, use_cache=True)
        second = model(IDS[:, :1], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(first.logits, model(IDS).logits)
    whole = edited(model, skip_layer([3]), ids=torch.cat([IDS, IDS[:, :1]], 1))
    torch.testing.assert_close(second[:, -1], whole[:, -1])


def test_voids_follow_their_definition():
    """A token skips a layer where its norm grows less than alpha times the spread of the layers before."""
    model = deep()
    hidden = [model.model.embed_tokens(IDS)]
    mask = torch.full((12, 12), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    rotary = model.model.rotary_emb(hidden[0], torch.arange(12)[None])
    grown = []
    with torch.no_grad():
        for block in model.model.layers:
            out = block(hidden[-1], attention_mask=mask, position_embeddings=rotary)
            grown.append(out.norm(dim=-1) - hidden[-1].norm(dim=-1))
            earlier = torch.stack(grown[:-1] or grown)
            void = grown[-1] < 0.5 * (earlier.amax(0) - earlier.amin(0))
            hidden.append(torch.where(void[..., None], hidden[-1], out))
        expected = model.lm_head(model.model.norm(hidden[-1]))
        model.set_attn_implementation("eager")
    found = edited(model, skip_layer(rule="voids", alpha=0.5)).detach()
    assert not torch.allclose(found, edited(model, skip_layer([0])), atol=1e-3)
    torch.testing.assert_close(found, expected)


def test_similar_layers_are_found():
    """A layer whose weights were shrunk turns the stream least, and is chosen; its name tells the layers."""
    model = deep()
    with torch.no_grad():
        for weight in (
            model.model.layers[2].self_attn.o_proj.weight,
            model.model.layers[2].mlp.down_proj.weight,
        ):
            weight.mul_(1e-3)
    for one in (skip_layer(n=1), skip_module("attention", n=1), skip_module("mlp", n=1)):
        with probe.edit((model, letters()), [replace(one, over=("abcdefgh, hgfedcba",))]) as session:
            model(IDS)
        assert session.interventions[0].target.layers == (2,)
        assert "layers=2" in session.interventions[0].name
        assert "chose layers 2 (S=" in session.notes[0]


def test_module_similarity_is_the_published_one():
    """S = 1 - mean cos(x, x + f(norm x)), recomputed from the stream around each module."""
    from probe.interventions.redundancy import Blocks
    from probe.interventions.target import Target
    from probe.interventions.writers import find_writers, module_distances

    model = deep()
    seen = {}
    for i, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(lambda _, a, i=i: seen.__setitem__((i, "x"), a[0]))
        block.self_attn.register_forward_hook(
            lambda _, a, out, i=i: seen.__setitem__((i, "attention"), out[0])
        )
        block.mlp.register_forward_hook(lambda _, a, out, i=i: seen.__setitem__((i, "mlp"), out))
    with torch.no_grad():
        model(IDS)
    found = Blocks.of(model, Target(), "test")
    kept = dict(seen)
    writers = find_writers(model, found, "test")
    for kind in ("attention", "mlp"):
        scores = module_distances(model, writers, kind, {"decoder"}, [{"input_ids": IDS}])
        for i in range(4):
            x = kept[i, "x"] + (kept[i, "attention"] if kind == "mlp" else 0)
            expected = 1 - torch.cosine_similarity(x, x + kept[i, kind], dim=-1).mean()
            assert scores[i] == pytest.approx(float(expected), abs=1e-12)


def test_rules_choose_as_documented():
    """Even stretches give their middles; ties go to the lower layer."""
    assert spaced(range(8), 2) == (2, 6)
    assert spaced(range(5), 5) == (0, 1, 2, 3, 4)
    assert least({0: 0.2, 1: 0.1, 2: 0.1}, 2) == (1, 2)
    model = deep()
    with probe.edit(model, [skip_layer(n=2, rule="spaced").control(0)]) as session:
        model(IDS)
    assert session.interventions[0].target.layers == (0, 2)


@pytest.mark.parametrize("make", [gpt2, t5, vit])
def test_other_architectures_can_skip(make):
    """Zeroed by z is the whole attention where nothing stands behind it but W_O's bias; encoders count too."""
    model = make().double()
    inputs = {"input_ids": IDS}
    if make is t5:
        inputs["decoder_input_ids"] = IDS
    if make is vit:
        inputs = {"pixel_values": torch.randn(1, 3, 32, 32, dtype=torch.float64)}
    for one in (skip_layer([1]), skip_module("attention", [1]), skip_module("mlp", [1])):
        with torch.no_grad():
            base = model(**inputs)[0]
            with probe.edit(model, [one]):
                found = model(**inputs)[0]
        assert float((found - base).abs().max()) > 1e-6


def test_what_cannot_be_skipped_is_refused_by_name():
    """Before the first forward: post-norm modules, layers that are not there, numbers out of range."""
    post_norm = bert()
    torch.nn.init.constant_(post_norm.encoder.layer[1].output.LayerNorm.weight, 1.5)
    with pytest.raises(InterventionError, match=r"encoder\.layer\.1.*still changes the residual"):
        edited(post_norm, skip_module("attention", [1]))
    with pytest.raises(UnknownNameError, match="unknown layer '9'"):
        edited(llama(), skip_layer([9]))
    with pytest.raises(UnknownNameError, match="unknown tower 'vision'"):
        edited(llama(), skip_layer([0], tower="vision"))
    with pytest.raises(UsageError, match="2 layers to choose from"):
        edited(llama(), skip_layer(n=3, rule="spaced"))
    with pytest.raises(UsageError, match="only 0 other layers"):
        edited(llama(), skip_layer([0, 1]).control(0))
    with pytest.raises(InterventionError, match="towers decoder, encoder"):
        edited(t5(), skip_layer(n=1, rule="spaced"))
    with pytest.raises(InterventionError, match="queries out"):
        edited(t5(), skip_layer([0], queries=(0, 2)))
    with pytest.raises(UsageError, match="no tokenizer"):
        edited(llama(), skip_layer(n=1))
    for wrong in ({}, {"n": 0}, {"n": True}, {"layers": [0], "alpha": -1.0}, {"n": 1, "rule": "voids"}):
        with pytest.raises(UsageError):
            skip_layer(**wrong)
    for spec in ("skip_module:kind=norm,n=1", "skip_module:rule=voids,n=1", "skip_module:kind=mlp"):
        with pytest.raises(UsageError):
            make(spec)


def test_the_model_is_left_as_it_was():
    """Also where the block ends with an error."""
    model = deep()
    before = state(model)
    with probe.edit(model, [skip_layer([1]), skip_module("mlp", [0])]):
        model(IDS)
    assert state(model) == before
    with pytest.raises(AttributeError), probe.edit(model, [skip_layer([1])]):
        model(IDS, attention_mask="no mask")
    assert state(model) == before
