"""Per-token choice of heads by norm, held against z and W_O written out by hand."""

import pytest
import torch
from small_models import bert, gpt2, letters, llama, t5, vit
from subjects.catalogue import SUBJECTS

import probe
from probe.errors import InterventionError, UsageError
from probe.interventions import make, top_heads, zero

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])


def edited(model, *interventions):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(IDS).logits


def by_hand(model, change, layer=1):
    """Logits with `change(z)` applied to one layer's z [1, head, query, d_head]."""

    def replace(module, args):
        z = args[0].view(1, -1, 4, 8).transpose(1, 2)
        return (change(z).transpose(1, 2).reshape(args[0].shape),)

    handle = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(replace)
    with torch.no_grad():
        logits = model(IDS).logits
    handle.remove()
    return logits


def norms_by_hand(model, by, z, layer=1):
    """‖·‖ of every head of a llama layer [1, head, query] in float64, from its own weights."""
    attention = model.model.layers[layer].self_attn
    if by == "z_norm":
        return z.double().norm(dim=-1)
    weight = attention.o_proj.weight.double().T.view(4, 8, -1)
    return torch.einsum("bhqd,hdm->bhqm", z.double(), weight).norm(dim=-1)


@pytest.mark.parametrize("by", ["z_norm", "write_norm"])
@pytest.mark.parametrize("keep", [1, 3])
def test_the_largest_heads_of_each_token_write(by, keep):
    """Only the `keep` heads with the largest norm keep their z; the choice is made anew for every token."""
    model = llama()
    choices = []

    def change(z):
        norms = norms_by_hand(model, by, z)
        # At the first token, heads that share a value head write the same: of equals the lower number stays.
        order = norms.round(decimals=5).argsort(dim=1, descending=True, stable=True)
        kept = torch.zeros_like(norms, dtype=torch.bool).scatter_(1, order[:, :keep], True)
        choices.append(kept)
        return z * kept[..., None]

    expected = by_hand(model, change)
    torch.testing.assert_close(edited(model, top_heads(keep, by, layers=[1])), expected, atol=1e-4, rtol=1e-4)
    assert len({tuple(one) for one in choices[0][0].T.tolist()}) > 1  # not one fixed set


def test_query_norms_choose_by_the_query():
    """By query norm the heads with the longest queries stay: those whose q_proj was made larger."""
    model = llama()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight.view(4, 8, -1)[[1, 3]] *= 20.0
    found = edited(model, top_heads(2, layers=[1]))
    torch.testing.assert_close(found, edited(model, zero(["L1.H0", "L1.H2"])), atol=1e-4, rtol=1e-4)


def test_write_norm_is_found_by_shape_everywhere():
    """W_O is found in GPT-2's Conv1D and beside BERT's attention; the head with the largest write stays."""
    for model in (gpt2(), bert()):
        with torch.no_grad(), probe.edit(model, [top_heads(1, "write_norm")]):
            model(IDS)
    model = gpt2()
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight[8:16] *= 100.0
    found = edited(model, top_heads(1, "write_norm", layers=[0]))
    others = edited(model, zero(["L0.H0", "L0.H2", "L0.H3"]))
    torch.testing.assert_close(found, others, atol=1e-4, rtol=1e-4)


def test_padding_batch_and_cache_choose_alike():
    """The choice, and its random control, are the same in a left-padded batch and with a KV cache."""
    model = llama()
    for one in (top_heads(2), top_heads(2, "write_norm"), top_heads(2).control(1)):
        whole = edited(model, one)
        padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS.expand(2, -1)], dim=1)
        mask = (torch.arange(15) >= 3).long().expand(2, -1)
        with probe.edit(model, [one]), torch.no_grad():
            batch = model(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0))
            first = model(IDS[:, :7], use_cache=True)
            rest = model(IDS[:, 7:], past_key_values=first.past_key_values)
        torch.testing.assert_close(batch.logits[1:, 3:], whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(rest.logits, whole[:, 7:], atol=1e-4, rtol=1e-4)


def test_the_control_keeps_as_many_and_the_seed_decides():
    """A random control silences as many heads at every token; another seed draws others."""
    model, tokenizer = llama(), letters()
    kept = {}
    for seed in (0, 1):
        one = top_heads(3).control(seed)
        with probe.edit(model, [one]):
            z = probe.capture((model, tokenizer), "abcdefgh", ["z"], mode="fused")["z"]
        kept[seed] = (
            torch.tensor(z.transpose("layer", "head", "query_pos", "d_head").values).abs().sum(-1) > 0
        )
        assert bool((kept[seed].sum(1) == 3).all())
    assert not torch.equal(kept[0], kept[1])


def test_wrong_choices_are_refused():
    """What cannot be meant is refused when it is written, or before the first forward."""
    for wrong in (lambda: top_heads(0), lambda: top_heads(True), lambda: make("top_heads:k=2,by=size")):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UsageError, match="has 4 heads to choose from"):
        edited(llama(), top_heads(4))
    with pytest.raises(UsageError, match="has 2 heads"):
        edited(llama(), top_heads(2, heads=["L0.H0", "L0.H1"]))
    with (
        pytest.raises(InterventionError, match="reads no token ids"),
        probe.edit(vit(), [top_heads(1, "write_norm")]),
    ):
        pass


def test_encoder_decoders_and_specs():
    """Every tower of an encoder-decoder is chosen from; a spec reads back as it is written."""
    model = t5()
    with probe.edit(model, [top_heads(1, "write_norm")]), torch.no_grad():
        model(input_ids=IDS, decoder_input_ids=IDS[:, :3])
    one = top_heads(2, "z_norm", layers=[1], phase="decode")
    assert make(one.name) == one


def test_a_gate_before_the_projection_is_refused():
    """Where the model changes z before W_O, ‖W_O z‖ is not what the head writes: refused by name."""
    with (
        pytest.raises(InterventionError, match="z_norm"),
        probe.edit(SUBJECTS["qwen3-next"].model(), [top_heads(1, "write_norm")]),
    ):
        pass
