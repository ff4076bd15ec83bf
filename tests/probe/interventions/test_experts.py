"""Switched experts, held against models without them and against routing worked out by hand."""

import pytest
import torch
from small_models import llama
from subjects.catalogue import SUBJECTS
from subjects.state import state

import probe
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import make
from probe.interventions.expert_off import expert_off, expert_on
from probe.interventions.routers import ExpertId, chosen_of, routers

ROUTED = [name for name, one in SUBJECTS.items() if one.family == "moe"]
RULES = ["gpt-oss", "deepseek-v2", "deepseek-v3", "laguna", "llama4-chunked", "minimax-m3", "jamba"]


def outputs(model, *interventions, **inputs):
    """The first output under interventions."""
    with torch.no_grad():
        if not interventions:
            return model(**inputs)[0]
        with probe.edit(model, list(interventions)):
            return model(**inputs)[0]


def double(subject):
    """The subject in float64, with experts computed one by one: grouped products know no float64."""
    model = subject.model().double()
    model.set_experts_implementation("eager")
    return model


def without_expert(model, router, expert):
    """The model without one expert: its rows taken out of every weight, or a bias of -inf in its linear map."""
    gate = model.get_submodule(router.place.module)
    linear = next((m for m in gate.children() if isinstance(m, torch.nn.Linear)), None)
    if linear is not None:
        linear.bias = torch.nn.Parameter(torch.zeros(router.experts, dtype=linear.weight.dtype))
        linear.bias.data[expert] = float("-inf")
        return model
    keep = [i for i in range(router.experts) if i != expert]
    for module in model.get_submodule(router.place.module.rpartition(".")[0]).modules():
        for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if value.shape[0] == router.experts:
                value.data = value.data[keep]
        for name, value in vars(module).items():
            if "expert" in name and value == router.experts:
                setattr(module, name, len(keep))
        if isinstance(module, torch.nn.Linear):
            module.out_features = module.weight.shape[0]
    return model


@pytest.mark.parametrize("name", [*ROUTED, *RULES])
def test_an_expert_off_is_a_model_without_it(name):
    """Every rule of routing: softmax, sigmoid with a bias, sparse mixing; a batch of 2 with left padding."""
    subject = SUBJECTS[name]
    model = double(subject)
    router = routers(model, "test")[-1]
    inputs = subject.inputs(model, left_padding=True)
    base, real = outputs(model, **inputs), inputs["attention_mask"].bool()
    moved = 0.0
    for expert in (1, 0):  # not every expert is in use on a few tokens
        one = expert_off([ExpertId(router.place.tower, router.place.layer, expert)])
        found = outputs(model, one, **inputs)
        expected = outputs(without_expert(double(subject), router, expert), **inputs)
        torch.testing.assert_close(found[real], expected[real], atol=2e-6, rtol=1e-5)
        moved = max(moved, float((found - base)[real].abs().max()))
    assert moved > 1e-5


@pytest.mark.parametrize("name", [*ROUTED, *RULES, "switch"])
def test_an_expert_on_is_always_chosen(name):
    """Its logit stands above every other of the token, no other logit moves, and the router's choice has it."""
    subject = SUBJECTS[name]
    model = subject.model()
    router = routers(model, "test")[-1]
    gate, seen = model.get_submodule(router.place.module), []
    gate.register_forward_hook(lambda _, args, out: seen.append(out))
    inputs = subject.inputs(model)
    outputs(model, **inputs)
    before, seen[:] = seen[-1], []
    outputs(model, expert_on([ExpertId(router.place.tower, router.place.layer, 1)]), **inputs)
    after = seen[-1]
    chosen = chosen_of(after, router)
    assert chosen is None or bool((chosen == 1).any(-1).all())
    flat = next(
        (a, b)
        for a, b in zip(as_tuple(before), as_tuple(after), strict=True)
        if isinstance(a, torch.Tensor)
        and a.shape[-1] == router.experts
        and a.is_floating_point()
        and not mixed(a)
    )
    others = [i for i in range(router.experts) if i != 1]
    torch.testing.assert_close(flat[1][..., others], flat[0][..., others])
    assert bool((flat[1][..., 1] > flat[1][..., others].amax(-1)).all())


def as_tuple(output):
    """A module's output as a tuple."""
    return tuple(output) if isinstance(output, tuple | list) else (output,)


def mixed(value):
    """Whether scores hold weights of chosen experts only (zeros elsewhere)."""
    return bool((value == 0).any())


def test_forced_shares_follow_the_routers_rule():
    """Mixtral by hand: softmax over the edited logits, the two best, renormalised."""
    model = double(SUBJECTS["mixtral"])
    gate, seen = model.model.layers[1].mlp.gate, []
    gate.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    outputs(model, expert_on(["L1.E3"]), **SUBJECTS["mixtral"].inputs(model))
    hidden, (_, scores, chosen) = seen[-1]
    logits = hidden @ gate.weight.T
    top = logits[:, :3].amax(-1)
    logits[:, 3] = torch.maximum(logits[:, 3], top + top.abs().clamp_min(1) / 128)
    best, index = logits.softmax(-1).topk(2)
    assert torch.equal(chosen, index)
    torch.testing.assert_close(scores.double(), best / best.sum(-1, keepdim=True), atol=1e-6, rtol=1e-6)


def test_biased_and_grouped_choices_exclude_and_force():
    """DeepSeek-V3's rule with a bias that would choose the excluded expert, and groups that would leave one out."""
    model = SUBJECTS["deepseek-v3"].model()
    gate, seen = model.model.layers[1].mlp.gate, []
    gate.register_forward_hook(lambda _, args, out: seen.append(out[2]))
    gate.num_group, gate.topk_group = 2, 1
    gate.e_score_correction_bias[2:] += 50.0  # the second group is always chosen
    inputs = SUBJECTS["deepseek-v3"].inputs(model)
    outputs(model, **inputs)
    assert set(seen[-1].unique().tolist()) == {2, 3}
    outputs(model, expert_off(["L1.E2"]), **inputs)
    assert 2 not in seen[-1]
    outputs(model, expert_off(["L1.E2", "L1.E3"]), **inputs)
    assert set(seen[-1].unique().tolist()) == {0, 1}
    outputs(model, expert_on(["L1.E0"]), **inputs)
    assert bool((seen[-1] == 0).any(-1).all())


def test_generation_and_chosen_tokens():
    """With a cache, as without; at decode only the prompt's forward is the model's own; rows are real tokens."""
    subject = SUBJECTS["qwen3-moe"]
    model, smaller = double(subject), double(subject)
    router = routers(model, "test")[1]
    without_expert(smaller, router, 2)
    ids = subject.inputs(model)["input_ids"]
    for options in ({"do_sample": False}, {"num_beams": 2}):
        options = {**options, "max_new_tokens": 4, "eos_token_id": None}
        with probe.edit(model, [expert_off(["L1.E2"])]):
            mine = model.generate(ids, **options)
        assert torch.equal(mine, smaller.generate(ids, **options))
    base, whole = outputs(model, input_ids=ids), outputs(smaller, input_ids=ids)
    rows = outputs(model, expert_off(["L1.E2"], queries=(3, 6)), input_ids=ids)
    inside = torch.zeros(12, dtype=torch.bool)
    inside[3:6] = True  # the last layer: no row sees another's output
    torch.testing.assert_close(rows[:, inside], whole[:, inside])
    torch.testing.assert_close(rows[:, ~inside], base[:, ~inside])
    with probe.edit(model, [expert_off(["L1.E2"], phase="decode")]), torch.no_grad():
        first = model(ids[:, :8], use_cache=True)
        second = model(ids[:, 8:9], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(first.logits, base[:, :8])
    torch.testing.assert_close(second, whole[:, 8:9])


def test_router_statistics_show_the_edited_logits():
    """What observers of router_logits see under the edit is -inf for the expert, and that only there."""
    seen = []

    class Watch:
        points = ("router_logits",)

        def want(self, call):
            from probe_kernels.types import Want

            return Want(z=False)

        def update(self, call, attended):
            pass

        def activation(self, seen_now):
            seen.append(seen_now.value)

    from probe.seam.session import Session

    model = SUBJECTS["mixtral"].model()
    inputs = SUBJECTS["mixtral"].inputs(model)
    with Session(model, (Watch(),)), probe.edit(model, [expert_off(["L0.E1"])]), torch.no_grad():
        model(**inputs)
    assert bool(torch.isneginf(seen[0][..., 1]).all())
    assert bool(torch.isfinite(seen[0][..., [0, 2, 3]]).all())
    assert bool(torch.isfinite(seen[1]).all())


def test_switches_compose_and_are_undone():
    """One off and one on in the same layer; a control has other experts; the model is left as it was."""
    model = SUBJECTS["mixtral"].model()
    inputs, before = SUBJECTS["mixtral"].inputs(model), state(model)
    gate, seen = model.model.layers[0].mlp.gate, []
    handle = gate.register_forward_hook(lambda _, args, out: seen.append(out[2]))
    outputs(model, expert_off(["L0.E1"]), expert_on(["L0.E3"]), **inputs)
    assert 1 not in seen[-1]
    assert bool((seen[-1] == 3).any(-1).all())
    handle.remove()
    with probe.edit(model, [expert_off(["L0.E1"]).control(0)]) as session, torch.no_grad():
        model(**inputs)
        (switch,) = session.interventions[0].switches
    assert len(switch.off) == 1
    assert switch.off != (1,)
    with pytest.raises(AttributeError), probe.edit(model, [expert_on(["L0.E1"])]):
        model(**{**inputs, "attention_mask": "none"})
    assert state(model) == before


def test_bad_experts_are_refused_by_name():
    """Before the first forward: no experts, unknown ones, too few left, too many on."""
    model = SUBJECTS["mixtral"].model()
    with pytest.raises(InterventionError, match="no experts"):
        outputs(llama(), expert_off(["L0.E1"]), input_ids=torch.tensor([[3, 4]]))
    with pytest.raises(UnknownNameError, match=r"L0\.E4"):
        outputs(model, expert_off(["L0.E4"]))
    with pytest.raises(UnknownNameError, match=r"L7\.E0"):
        outputs(model, expert_on(["L7.E0"]))
    with pytest.raises(InterventionError, match="chooses 2 of 4 experts, and only 1 would be left"):
        outputs(model, expert_off(["L0.E0", "L0.E1", "L0.E2"]))
    with pytest.raises(InterventionError, match="3 cannot all be on"):
        outputs(model, expert_on(["L0.E0", "L0.E1", "L0.E2"]))
    with pytest.raises(UsageError, match="experts are written like"):
        expert_off(["L3.H7"])
    with pytest.raises(UsageError, match="experts="):
        expert_off([])
    with pytest.raises(UsageError, match="give a list"):
        expert_off("L3.E7")
    assert (
        make("expert_on:experts=L3.E7+L4.E1,phase=decode").name
        == "expert_on:phase=decode,experts=L3.E7+L4.E1"
    )
