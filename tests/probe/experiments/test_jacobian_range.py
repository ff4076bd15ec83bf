"""Jacobian range: exact Jacobians, attention of the same rows, planted reach, and what is refused."""

import numpy as np
import pytest
import torch
from small_models import gpt2, letters, llama, mistral, t5

import probe
from probe.errors import UnknownNameError, UsageError
from probe.experiments.base import Ask
from probe.experiments.gradients import gradients_allowed, graph
from probe.experiments.jacobian_range import JacobianRange, chosen_rows, left_out_error, share_beyond
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt

N = 24


def loaded(build: object) -> LoadedModel:
    return LoadedModel(build(), letters(), "small", ModelSource("given"))


def text(n: int = N, seed: int = 0) -> Prompt:
    return Prompt.of_tokens(np.random.default_rng(seed).integers(2, 50, n).tolist(), id=f"p{seed}")


def jacobian(small: LoadedModel, prompt: Prompt, layer: int, row: int) -> torch.Tensor:
    """‖∂ resid[row] / ∂ embedding_j‖ per token, from the whole Jacobian."""
    model = small.model

    def resid(embeddings: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=embeddings, output_hidden_states=True).hidden_states[layer + 1][0, row]

    start = model.get_input_embeddings()(torch.tensor([prompt.tokens])).detach()
    whole = torch.autograd.functional.jacobian(resid, start)  # [d, 1, token, d]
    return whole[:, 0].double().square().sum((0, 2)).sqrt()


def test_many_probes_find_the_exact_jacobian() -> None:
    """With many random vectors the share is the whole Jacobian's, within a few of its standard errors."""
    small, prompt = loaded(llama), text()
    experiment = JacobianRange(beyond=6, rows=2, probes=200, layers="0")
    (answer,) = experiment.run(Ask(small, (prompt,)))
    exact, without = [], []
    for row in chosen_rows(N, 6, 2).tolist():
        norms = jacobian(small, prompt, 0, row)
        far = (torch.arange(N) - row).abs() > 6
        assert float(norms[row + 1 :].sum()) == 0
        exact.append(share_beyond(norms, far))
        without.append(share_beyond(norms[1:], far[1:]))
    error = answer.extra["error"].item()
    assert 0 < error < 0.01
    assert abs(answer.head_map.item() - np.mean(exact)) < 4 * error
    assert answer.extra["gradient_without_first"].item() == pytest.approx(np.mean(without), abs=4 * error)


def test_attention_is_of_the_same_rows() -> None:
    """Mass beyond the distance, mean over heads and rows, equals the eager weights; so does uniform attention's."""
    small, prompt = loaded(mistral), text()
    (answer,) = JacobianRange(beyond=3, rows=3, probes=1).run(Ask(small, (prompt,)))
    small.model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = small.model(torch.tensor([prompt.tokens]), output_attentions=True).attentions
    rows = chosen_rows(N, 3, 3)
    far = (torch.arange(N) - rows[:, None]).abs() > 3
    for layer, p in enumerate(weights):
        p = p[0][:, rows].double()
        assert answer.extra["attention"].values[layer] == pytest.approx(
            float((p * far).sum(-1).mean()), abs=1e-5
        )
        rest = (p * far)[..., 1:].sum(-1) / p[..., 1:].sum(-1)
        assert answer.extra["attention_without_first"].values[layer] == pytest.approx(
            float(rest.mean()), abs=1e-5
        )
    assert answer.extra["uniform"].values == pytest.approx(
        [4 / 8] * 2
    )  # a window of 8 keys, of which 4 are far
    assert answer.extra["error"].isnull().all()
    assert "one vector has no standard error" in answer.notes[0]


def test_a_window_bounds_the_reach_of_one_layer_and_depth_adds_up() -> None:
    """Behind a window of 8, the first layer reaches no token beyond 7; the second does, and its attention does not."""
    (answer,) = JacobianRange(beyond=7, rows=1, probes=2).run(Ask(loaded(mistral), (text(),)))
    assert answer.head_map.values[0] == 0
    assert answer.head_map.values[1] > 0.01
    assert answer.extra["attention"].values.tolist() == [0.0, 0.0]


def test_a_uniform_head_reaches_as_far_as_it_looks() -> None:
    """z of a head whose scores are all 0 is the mean of values: each token's part of the gradient is the same."""
    small = loaded(gpt2)
    attention = small.model.transformer.h[0].attn.c_attn
    width = 32
    attention.weight.data[:, : 2 * width] = 0
    attention.bias.data[: 2 * width] = 0
    small.model.transformer.wpe.weight.data.zero_()
    same = Prompt.of_tokens([5] * N, id="same")
    (answer,) = JacobianRange(beyond=6, rows=1, probes=40, layers="0", of="z").run(Ask(small, (same,)))
    assert answer.head_map.dims == ("layer", "head")
    np.testing.assert_allclose(answer.head_map.values, (N - 7) / N, atol=1e-4)
    np.testing.assert_allclose(answer.extra["attention"].values, (N - 7) / N, atol=1e-5)


def test_z_is_the_models_own() -> None:
    """The z that is asked for gradients is the one that the layer's projection is given, with its graph."""
    small, prompt = loaded(llama), text()
    given = {}
    projection = small.model.model.layers[1].self_attn.o_proj
    handle = projection.register_forward_hook(lambda _m, args, _o: given.update(x=args[0]))
    with graph(small, prompt, "z", frozenset({1})) as made:
        assert set(made.outputs) == {1}
        flat = made.outputs[1].transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat, given["x"][0])
        assert made.outputs[1].requires_grad
    handle.remove()


def test_runs_repeat_edit_and_restore() -> None:
    """The same seed gives the same numbers; an edit of the call changes them; no gradient is left on the weights."""
    small, prompt = loaded(llama), text()
    one, two = (JacobianRange(beyond=6).run(Ask(small, (prompt,), seed=3))[0] for _ in range(2))
    assert one.head_map.identical(two.head_map)
    assert all(weight.grad is None for weight in small.model.parameters())
    cut = [probe.interventions.zero(heads=[f"L{layer}.H{head}" for layer in (0, 1) for head in range(4)])]
    edited = probe.analyze(small, [prompt], ["jacobian_range:beyond=6"], cut)["jacobian_range"]
    assert (edited == 0).all()  # without attention a row depends on its own token alone


def test_several_prompts_are_averaged() -> None:
    """The head map is the mean of its values per prompt, and the error shrinks with them."""
    (answer,) = JacobianRange(beyond=6).run(Ask(loaded(llama), (text(), text(seed=1), text(5))))
    assert answer.by_prompt.sizes == {"prompt": 2, "layer": 2}
    np.testing.assert_allclose(answer.head_map.values, answer.by_prompt.mean("prompt").values)
    assert any("'p0' (5)" in note for note in answer.notes)


def test_leaving_probes_out_measures_their_spread() -> None:
    """Probes that agree have error 0; one probe has none; random ones have that of their spread over samples."""
    far = torch.tensor([True, False, False])
    assert left_out_error(torch.ones(3, 3), far) == 0
    assert np.isnan(left_out_error(torch.ones(1, 3), far))
    draws = torch.randn(400, 10, 3, generator=torch.Generator().manual_seed(0)).double().square()
    shares = [share_beyond(one.mean(0).sqrt(), far) for one in draws]
    errors = [left_out_error(one, far) for one in draws]
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.15)


def test_what_has_no_gradient_is_refused_by_name() -> None:
    """Inference mode and quantised models are a clear error."""
    small = loaded(llama)
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        JacobianRange().run(Ask(small, (text(),)))
    small.model.quantization_method = "bitsandbytes"
    with pytest.raises(UsageError, match=r"quantised \(bitsandbytes\)"):
        gradients_allowed(small, "jacobian_range")


def test_bad_parameters_and_prompts() -> None:
    """Layers that are not there, words for layers, and prompts that hold no far token."""
    small = loaded(llama)
    with pytest.raises(UnknownNameError, match="layer '7'"):
        JacobianRange(beyond=6, layers="7").run(Ask(small, (text(),)))
    with pytest.raises(UsageError, match="joined by"):
        JacobianRange(layers="first")
    with pytest.raises(UsageError, match="probes was 0"):
        JacobianRange(probes=0)
    (short,) = JacobianRange(beyond=30).run(Ask(small, (text(),)))
    assert short.head_map.isnull().all()
    assert "not applicable" in short.notes[0]
    (other,) = JacobianRange().run(Ask(loaded(t5), (text(40),)))
    assert other.head_map.isnull().all()
