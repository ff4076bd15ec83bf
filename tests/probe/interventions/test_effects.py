"""What interventions do to a model, held against dense attention written out by hand."""

import pytest
import torch
from small_models import gpt2, letters, llama

import probe
from probe.errors import InputError, InterventionError, UnknownNameError
from probe.interventions import boost, drop, graft, isolate, knockout, pattern, scale, zero

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])


def by_hand(model, change, layer=1):
    """Logits with `change(z, p, v)` applied to one layer's z [1, head, query, d_head], its pattern and its values."""
    attention = model.model.layers[layer].self_attn
    kept = {}

    def look(module, args, kwargs):
        kept["hidden"] = kwargs["hidden_states"]

    def replace(module, args):
        hidden = kept["hidden"]
        v = attention.v_proj(hidden).view(1, -1, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
        z = args[0].view(1, -1, 4, 8).transpose(1, 2)
        changed = change(z, v)
        return (changed.transpose(1, 2).reshape(args[0].shape),)

    handles = [
        attention.register_forward_pre_hook(look, with_kwargs=True),
        attention.o_proj.register_forward_pre_hook(replace),
    ]
    with torch.no_grad():
        logits = model(IDS).logits
    for handle in handles:
        handle.remove()
    return logits


def edited(model, *interventions, ids=IDS, **more):
    """Logits under interventions."""
    with probe.edit(model, list(interventions), **more), torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("alpha", [0.0, 2.0, -1.0])
def test_scale_and_zero_are_what_they_say(alpha):
    """Scaling a head's z gives the logits of a model whose z was scaled by hand; zero is scaling by 0."""
    model = llama()

    def change(z, v):
        z = z.clone()
        z[:, 2] *= alpha
        return z

    expected = by_hand(model, change)
    torch.testing.assert_close(edited(model, scale(["L1.H2"], alpha)), expected, atol=1e-4, rtol=1e-4)
    if alpha == 0.0:
        torch.testing.assert_close(edited(model, zero(["L1.H2"])), expected, atol=1e-4, rtol=1e-4)


def test_knockout_renormalises_the_row():
    """Hiding keys gives the softmax over the keys that are left, in the chosen head and rows only."""
    model = llama()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = model(IDS, output_attentions=True).attentions[1]
    model.set_attn_implementation("sdpa")

    def change(z, v):
        cut = pattern.clone()
        cut[:, 3, 6:10, 0:2] = 0
        cut = cut / cut.sum(-1, keepdim=True)
        changed = z.clone()
        changed[:, 3] = (cut @ v)[:, 3]
        return changed

    found = edited(model, knockout((6, 10), (0, 2), ["L1.H3"]))
    torch.testing.assert_close(found, by_hand(model, change), atol=1e-4, rtol=1e-4)


def test_a_row_without_keys_writes_nothing():
    """A query that loses every key gets z = 0, not NaN."""
    model = llama()
    found = edited(model, knockout("all", "all"))
    torch.testing.assert_close(found, edited(model, zero()), atol=1e-5, rtol=1e-5)


def test_statistics_come_from_the_edited_attention():
    """Under a knockout the metrics see the edited row: no mass is left on hidden keys."""
    cut = knockout("all", (0, 1))
    report = probe.analyze((gpt2(), letters()), "abcdefgh", ["sink", "entropy"], [cut])
    assert float(report["sink"].max()) == 0.0
    base = probe.analyze((gpt2(), letters()), "abcdefgh", ["sink"])
    assert float(base["sink"].min()) > 0.0


def test_interventions_of_a_list_apply_in_order():
    """Scaling by 2 and then by 3 is scaling by 6; zero last is zero."""
    model = llama()
    six = edited(model, scale(["L0.H1"], 6.0))
    torch.testing.assert_close(edited(model, scale(["L0.H1"], 2.0), scale(["L0.H1"], 3.0)), six)
    torch.testing.assert_close(
        edited(model, scale(["L0.H1"], 2.0), zero(["L0.H1"])), edited(model, zero(["L0.H1"]))
    )


def test_phases_are_edited_apart():
    """A decode-only edit leaves the prompt's forward alone; together with prefill it is the whole edit."""
    model = llama()
    with torch.no_grad():
        native = model(IDS, use_cache=True)
        with probe.edit(model, [zero(phase="decode")]):
            first = model(IDS, use_cache=True)
            second = model(IDS[:, :1], past_key_values=first.past_key_values, use_cache=True)
        expected = model(IDS[:, :1], past_key_values=native.past_key_values, use_cache=True)
    torch.testing.assert_close(first.logits, native.logits, atol=1e-4, rtol=1e-4)
    assert float((second.logits - expected.logits).abs().max()) > 1e-3
    with pytest.raises(InterventionError, match=r"phase=decode.*changed nothing in 1 forwards"):
        edited(model, zero(phase="decode"))


def test_left_padding_moves_no_span():
    """Spans count real tokens: a left-padded row is edited as it is alone."""
    model = llama()
    cut = knockout((3, 6), (1, 3))
    alone = edited(model, cut, ids=IDS[:, :8])
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), IDS[:, :8]], dim=1)
    mask = (torch.arange(12) >= 4).long()[None]
    with probe.edit(model, [cut]), torch.no_grad():
        found = model(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0)).logits[
            :, 4:
        ]
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


def test_gradients_flow_through_edits():
    """An edited forward can be differentiated; a zeroed head's query weights get no gradient."""
    model = llama(num_hidden_layers=1)
    with probe.edit(model, [zero(["L0.H2"])]):
        model(IDS).logits.sum().backward()
    gradient = model.model.layers[0].self_attn.q_proj.weight.grad.view(4, 8, -1)
    assert float(gradient[2].abs().max()) == 0.0
    assert float(gradient[1].abs().max()) > 0.0


def test_control_edits_as_many_other_heads():
    """A control leaves the chosen heads alone and edits as many others of the same layer."""
    model = llama()
    moved = {}
    for name, one in (("edit", zero(["L1.H0"])), ("control", zero(["L1.H0"]).control(3))):
        with probe.observe(model, ["head_output_norm"], [one]) as run, torch.no_grad():
            model(IDS)
        moved[name] = run.report()["head_output_norm"].sel(layer=1).values == 0
    assert list(moved["edit"]) == [True, False, False, False]
    assert moved["control"].sum() == 1
    assert not moved["control"][0]


def test_missing_heads_and_spans_are_loud():
    """A head number that a layer does not have, an unknown span and unannounced spans are errors."""
    model, tokenizer = llama(), letters()
    with pytest.raises(UnknownNameError, match=r"L1\.H4"):
        edited(model, zero(["L1.H4"]))
    with pytest.raises(InputError, match="announce"):
        edited(model, knockout("last", "needle"))
    prompt = probe.Prompt.of("abcd", tokenizer)
    with pytest.raises(UnknownNameError, match="needle"):
        edited(model, knockout("last", "needle"), ids=torch.tensor([prompt.tokens]), prompts=[prompt])


@pytest.mark.parametrize(
    "one",
    [
        knockout((0, 2), (5, 8)),
        drop((0, 2), (5, 8)),
        boost((5, 8), 1.0, queries=(0, 2)),
        isolate((2, 6), 9),
        pattern("window=99"),
        graft("local", 99, layers=[0, 1]),
    ],
    ids=lambda one: one.name,
)
def test_edges_that_no_row_has_are_no_edit(one):
    """Keys that the mask hides anyway, windows that reach everything: nothing would be changed, so it is an error."""
    with pytest.raises(InterventionError, match=r"changed nothing in 1 forwards through model\.layers\.0"):
        edited(llama(), one)


def test_an_edge_that_only_later_rows_have_acts_where_they_come():
    """Nothing is hidden from the prompt; the rows that continue it lose the key."""
    model = llama()
    with probe.edit(model, [knockout("all", (4, 5), phase="both")]) as session, torch.no_grad():
        cached = model(IDS[:, :4], use_cache=True).past_key_values
        assert session.idle
        model(IDS[:, 4:7], past_key_values=cached)
        assert not session.idle
