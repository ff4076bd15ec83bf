"""Blocks, MLPs, routers and logits are found in any model; hooks see what the model itself reports."""

import pytest
import torch
from probe_kernels.types import Want
from subjects.catalogue import SUBJECTS
from torch import Tensor, nn

from probe.errors import CaptureError
from probe.seam import Session
from probe.seam.call import Activation, Batch
from probe.seam.points import attach

NAMES = ["llama", "gpt2", "gemma3", "bert", "t5", "gpt-oss", "opt", "bloom", "vit"]


def run(model: nn.Module, inputs: dict[str, Tensor], *points: str) -> tuple[list[Activation], object]:
    seen: list[Activation] = []
    undo = attach(model, frozenset(points), seen.append, lambda: (Batch((0, 1), 0), "prefill"))  # type: ignore[arg-type]
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    undo()
    return seen, output


@pytest.mark.parametrize("name", NAMES)
def test_residual_stream_equals_hidden_states(name: str) -> None:
    """resid_pre of every layer is what transformers calls hidden_states, and resid_post is the next one."""
    model = SUBJECTS[name].model()
    seen, output = run(model, SUBJECTS[name].inputs(model), "resid_pre", "resid_post")
    towers = {a.place.tower for a in seen}
    for tower in towers:
        key = "hidden_states" if len(towers) == 1 else f"{tower}_hidden_states"
        states = getattr(output, key)
        for layer in range(len(states) - 1):
            mine = [a for a in seen if (a.place.tower, a.place.layer) == (tower, layer)]
            pre = next(a.value for a in mine if a.point == "resid_pre")
            post = next(a.value for a in mine if a.point == "resid_post")
            assert torch.equal(pre, states[layer])
            if layer < len(states) - 2:  # the last hidden state has the final norm applied
                assert torch.equal(post, states[layer + 1])


def test_every_hook_is_taken_off() -> None:
    """After undo the model has no hooks of ours left."""
    model = SUBJECTS["gpt-oss"].model()
    undo = attach(
        model,
        frozenset({"resid_pre", "resid_post", "mlp_out", "router_logits", "logits"}),
        lambda _: None,
        lambda: (Batch((0,), 0), "prefill"),
    )
    undo()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "opt"])
def test_mlp_out_is_what_the_block_adds_after_attention(name: str) -> None:
    """In blocks that add attention and MLP in turn, resid_pre + attention + mlp_out = resid_post."""
    model = SUBJECTS[name].model()
    attention: list[Tensor] = []
    for module_name, module in model.named_modules():
        if module_name.rpartition(".")[2] in {"self_attn", "attn"}:
            module.register_forward_hook(lambda _m, _a, out: attention.append(out[0]))
    seen, _ = run(model, SUBJECTS[name].inputs(model), "resid_pre", "resid_post", "mlp_out")
    for layer in range(2):
        at = {a.point: a.value for a in seen if a.place.layer == layer}
        assert torch.allclose(at["resid_pre"] + attention[layer] + at["mlp_out"], at["resid_post"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "projection"), [("t5", "DenseReluDense"), ("bert", "output.dense"), ("bloom", "dense_4h_to_h")]
)
def test_mlp_out_has_no_residual(name: str, projection: str) -> None:
    """Where the MLP's module adds the residual itself, mlp_out is taken before that."""
    model = SUBJECTS[name].model()
    direct: list[Tensor] = []
    for module_name, module in model.named_modules():
        if module_name.endswith(projection) and "attention" not in module_name:
            module.register_forward_hook(lambda _m, _a, out: direct.append(out))
    seen, _ = run(model, SUBJECTS[name].inputs(model), "mlp_out")
    assert len(seen) == len(direct) > 0
    assert all(torch.equal(a.value, value) for a, value in zip(seen, direct, strict=True))


def test_router_logits_are_unfolded_and_equal_the_models_own() -> None:
    """Router logits come as [batch, token, expert], equal to what the model returns flat."""
    model = SUBJECTS["mixtral"].model()
    inputs = SUBJECTS["mixtral"].inputs(model)
    seen, _ = run(model, inputs, "router_logits")
    own = model(**inputs, output_router_logits=True).router_logits
    assert [tuple(a.value.shape[:2]) for a in seen] == [tuple(inputs["input_ids"].shape)] * 2
    assert all(torch.allclose(a.value.flatten(0, 1), flat) for a, flat in zip(seen, own, strict=True))


def test_logits_point_is_the_models_logits() -> None:
    """The logits are those of the output, placed after every layer."""
    model = SUBJECTS["llama"].model()
    seen, output = run(model, SUBJECTS["llama"].inputs(model), "logits")
    assert torch.equal(seen[0].value, output.logits)  # type: ignore[attr-defined]
    assert seen[0].place.layer == -1


@pytest.mark.parametrize(
    ("name", "point"),
    [("llama", "router_logits"), ("vit", "logits"), ("openai-gpt", "resid_pre"), ("openai-gpt", "mlp_out")],
)
def test_a_point_that_is_missing_is_an_error_naming_model_and_point(name: str, point: str) -> None:
    """Asking for a point that the model does not have raises, and leaves no hook."""
    model = SUBJECTS[name].model()
    with pytest.raises(CaptureError, match=f"{point} was asked of {type(model).__name__}"):
        run(model, SUBJECTS[name].inputs(model), point)


def test_start_follows_the_cache() -> None:
    """In a KV-cached continuation an activation starts where the earlier tokens ended."""
    model = SUBJECTS["llama"].model()
    tokens = torch.arange(10, 18)[None]
    batches = [(Batch((0,), 0, tokens[:, :5]), "prefill"), (Batch((0,), 1, tokens), "decode")]
    now = [batches[0]]
    seen: list[Activation] = []
    undo = attach(model, frozenset({"resid_post"}), seen.append, lambda: now[0])
    with torch.no_grad():
        first = model(input_ids=tokens[:, :5], use_cache=True)
        now[0] = batches[1]
        model(input_ids=tokens[:, 5:], past_key_values=first.past_key_values)
    undo()
    assert [(a.start, a.phase) for a in seen] == [
        (0, "prefill"),
        (0, "prefill"),
        (5, "decode"),
        (5, "decode"),
    ]


def test_chunks_of_a_prompt_are_prefill_at_every_point() -> None:
    """A prompt fed in chunks is prefill for the residual stream as it is for attention."""
    model = SUBJECTS["llama"].model()
    tokens = torch.arange(10, 18)[None]
    seen: list[Activation] = []

    class Watch:
        points = frozenset({"resid_post"})

        def want(self, call):
            return Want(z=False)

        def update(self, call, attended):
            """Nothing."""

        def activation(self, one):
            seen.append(one)

    with torch.no_grad(), Session(model, [Watch()]) as session, session.prefilling():
        cache = model(input_ids=tokens[:, :5], use_cache=True).past_key_values
        model(input_ids=tokens[:, 5:], past_key_values=cache)
    assert [(a.start, a.phase) for a in seen[::2]] == [(0, "prefill"), (5, "prefill")]
