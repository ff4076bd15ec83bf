"""Gates on heads: fixed ones, and the router by query norm, held against its formula written out."""

import contextlib

import pytest
import torch
from small_models import letters, llama

import probe
from probe.errors import UnknownNameError, UsageError
from probe.interventions import make, reweight, scale, top_heads, zero

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])


def edited(model, *interventions):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(IDS).logits


def zs(model, one):
    """z of layer 1, [head, query, d_head], under an intervention."""
    with contextlib.nullcontext() if one is None else probe.edit(model, [one]):
        z = probe.capture((model, letters()), "abcdefgh", ["z"], layers=[1], mode="fused")["z"]
    return torch.tensor(z.squeeze().transpose("head", "query_pos", "d_head").values).double()


def test_fixed_gates_multiply_their_heads():
    """Gates are scalings of the heads that they name, whichever way they are written."""
    model = llama()
    expected = edited(model, scale(["L0.H1"], 0.5), scale(["L1.H2"], 2.0), zero(["L1.H3"]))
    gates = {"L1.H3": 0.0, "L0.H1": 0.5, "L1.H2": 2}
    for one in (reweight(gates), reweight("L0.H1=0.5+L1.H2=2+L1.H3=0"), make(reweight(gates).name)):
        torch.testing.assert_close(edited(model, one), expected, atol=1e-5, rtol=1e-5)
    control = reweight({"L1.H3": 0.0}).control(0)
    others = [edited(model, zero([f"L1.H{head}"])) for head in range(3)]
    assert sum(torch.allclose(edited(model, control), one, atol=1e-5) for one in others) == 1


@pytest.mark.parametrize("keep", [None, 3])
def test_soft_gates_follow_the_router(keep):
    """Soft gates are the softmax of standardised query norms, cut to the largest and scaled to average 1."""
    model = llama(num_hidden_layers=2)
    seen = {}

    def look(module, args, output):
        seen["q"] = output

    handle = model.model.layers[1].self_attn.q_proj.register_forward_hook(look)
    base = zs(model, None)
    handle.remove()
    norms = seen["q"].double().view(-1, 4, 8).norm(dim=-1).T  # RoPE turns q and keeps its norm
    router = ((norms - norms.mean(0)) / norms.std(0, correction=0)).softmax(0)
    if keep is not None:
        router = router * (router >= router.topk(keep, dim=0).values[-1])
    gates = router / router.sum(0) * (keep or 4)
    found = zs(model, reweight(by="query_norm", form="soft", keep=keep, layers=[1]))
    torch.testing.assert_close(found, base * gates[..., None], atol=1e-5, rtol=1e-4)


def test_the_hard_form_is_a_choice_of_top_heads():
    """A hard mask by query norm is top_heads by query norm; heads that are not routed always write."""
    model = llama()
    torch.testing.assert_close(edited(model, reweight(by="query_norm", keep=2)), edited(model, top_heads(2)))
    shared = zs(model, reweight(by="query_norm", keep=1, heads=["L1.H0", "L1.H1"]))
    base = zs(model, None)
    torch.testing.assert_close(shared[2:], base[2:], atol=1e-6, rtol=1e-5)
    assert bool(((shared[:2].abs().sum(-1) > 0).sum(0) == 1).all())


def test_the_control_deals_the_same_gates_to_other_heads():
    """Under the control every token has the same gates, in another order."""
    model = llama()
    one = reweight(by="query_norm", form="soft", layers=[1])
    base, found, control = zs(model, None), zs(model, one), zs(model, one.control(2))
    gates, dealt = (found.norm(dim=-1) / base.norm(dim=-1)), (control.norm(dim=-1) / base.norm(dim=-1))
    torch.testing.assert_close(gates.sort(0).values, dealt.sort(0).values, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(gates, dealt, atol=1e-2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: make("reweight"),
        lambda: reweight({"L0.H0": 1.0}, by="query_norm"),
        lambda: reweight({}),
        lambda: reweight("L0.H0"),
        lambda: reweight("L0.H0=x"),
        lambda: reweight({"L0.H0": float("nan")}),
        lambda: reweight("L0.H0=1+L0.H0=2"),
        lambda: reweight({"L0.H0": 1.0}, keep=2),
        lambda: reweight(by="query_norm"),
        lambda: make("reweight:by=size,keep=2"),
        lambda: reweight(by="query_norm", keep=0),
        lambda: reweight({"L0.H0": 1.0}, select="per_step"),
    ],
)
def test_wrong_gates_are_refused_at_once(wrong):
    """What cannot be meant is a UsageError when it is written."""
    with pytest.raises(UsageError):
        wrong()


def test_missing_heads_are_refused_before_the_forward():
    """A gate for a head that is not there, or a choice that silences none, runs nothing."""
    with pytest.raises(UnknownNameError, match=r"L1\.H9"):
        edited(llama(), reweight({"L1.H9": 0.5}))
    with pytest.raises(UsageError, match="fewer than 4"):
        edited(llama(), reweight(by="query_norm", keep=4))
