"""CARVE: the contrast map against dense attention, its regions, the crop, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import bert, llama
from subjects.catalogue import SUBJECTS

from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.experiments import Carve
from probe.experiments.carve_map import Box, box_of, components_of, contrast, refined_pixels, strongest

ASK = Carve(layers=(0, 1), new_tokens=4, top=0.25, lam=1e-3)


def asked(subject, model):
    """A question and a general instruction on the same image: other words, of another length."""
    question = subject.inputs(model, batch=1)
    general = dict(subject.inputs(model, batch=1, length=14))
    general["input_ids"] = general["input_ids"].clone()
    general["input_ids"][0, -3:] = 77
    return question, general


def dense(model, inputs, layers, steps):
    """Last-row, head-mean attention on image tokens from the model's own eager weights, [step, layer, token]."""
    image = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    model.set_attn_implementation("eager")
    made = model.generate(
        **inputs, max_new_tokens=steps, do_sample=False, output_attentions=True, return_dict_in_generate=True
    )
    model.set_attn_implementation("sdpa")
    rows = [[step[n][0, :, -1].double().mean(0)[image] for n in layers] for step in made.attentions]
    return np.array([[row.numpy() for row in step] for step in rows]), made.sequences


def test_the_map_is_that_of_dense_attention():
    """The contrast of a tiny LLaVA is the fused ratio of its own weights; the answers are its own."""
    subject = SUBJECTS["llava"]
    model = subject.model()
    model.generation_config.eos_token_id = None
    question, general = asked(subject, model)
    found = ASK.run(model, question, general)
    a_q, made = dense(model, question, (0, 1), 4)
    a_g, _ = dense(model, general, (0, 1), 4)
    assert a_q.shape == (4, 2, 16)
    expected = sum((t + 1) * (a_q[t] / (a_g[t] + 1e-3)).sum(0) for t in range(4)).reshape(4, 4)
    np.testing.assert_allclose(found.contrast, expected, rtol=1e-3)
    assert found.answer == tuple(made[0, question["input_ids"].shape[1] :].tolist())
    assert 1 <= found.mask.sum() <= 4
    pixels = refined_pixels(question["pixel_values"], found.mask)
    torch.testing.assert_close(found.refined_inputs["pixel_values"], pixels)
    again = model.generate(**{**question, "pixel_values": pixels}, max_new_tokens=4, do_sample=False)
    assert found.refined_answer == tuple(again[0, question["input_ids"].shape[1] :].tolist())
    assert found.contrast.max() / found.contrast.min() > 1.05


def test_weights_grow_with_the_steps_that_both_have():
    """S is the weighted sum over common steps from t_start on; equal attention gives 1 per layer and weight."""
    question, general = np.full((5, 2, 3), 0.2), np.full((3, 2, 3), 0.2)
    np.testing.assert_allclose(contrast(question, general, 1e-12), np.full(3, 2 * (1 + 2 + 3)))
    np.testing.assert_allclose(contrast(question, general, 1e-12, t_start=1), np.full(3, 2 * (1 + 2)))
    question[2, 1, 0] = 0.4
    np.testing.assert_allclose(contrast(question, general, 1e-12)[0], 2 * 6 + 3)
    with pytest.raises(InputError, match="has 3"):
        contrast(question, general, 1e-8, t_start=3)


def test_components_are_ranked_by_their_attention():
    """Of three regions the strongest by sum stay, not the largest or the brightest."""
    scores = np.zeros((4, 6))
    scores[0, 0] = 5.0  # bright and alone
    scores[0:2, 3] = 3.0  # sum 6
    scores[3, 0:4] = 1.0  # largest, sum 4
    two = strongest(scores, 7 / 24, 2)
    assert two.tolist() == ((scores == 5) | (scores == 3)).tolist()
    assert strongest(scores, 7 / 24, None).sum() == 7
    assert box_of(two) == Box(0, 2, 0, 4)
    assert strongest(scores, 1 / 24, 1).tolist() == (scores == 5).tolist()


@given(st.integers(0, 2**20 - 1))
def test_components_are_those_of_a_walk(bits):
    """Two kept tokens have one number iff a walk over sides joins them."""
    kept = np.array([bits >> n & 1 for n in range(20)], dtype=bool).reshape(4, 5)
    labels = components_of(kept)
    assert ((labels >= 0) == kept).all()
    left = {tuple(at) for at in np.argwhere(kept)}
    while left:
        front, region = [left.pop()], []
        while front:
            row, column = front.pop()
            region.append((row, column))
            for step in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if step in left:
                    left.remove(step)
                    front.append(step)
        numbers = {labels[at] for at in region}
        assert len(numbers) == 1
        assert int((labels == numbers.pop()).sum()) == len(region)


def test_the_crop_holds_what_the_mask_shows():
    """One chosen token fills the image; pixels of the box that were not chosen are 0."""
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[..., 2:4, 4:6] = 2.0
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 2] = True
    torch.testing.assert_close(refined_pixels(pixels, mask), torch.full((1, 3, 8, 8), 2.0))
    mask[2, 3] = True
    both = refined_pixels(torch.ones(1, 3, 8, 8), mask)
    assert both.shape == (1, 3, 8, 8)
    assert float(both[0, 0, 0, 0]) == 1.0
    assert float(both[0, 0, 0, -1]) == 0.0
    assert float(both.mean()) == pytest.approx(0.5)


def test_packed_patches_need_the_callers_processor():
    """Where pixels are packed, the mask is handed to `refine`; the grid is read from the inputs."""
    subject = SUBJECTS["qwen2-vl"]
    model = subject.model()
    question = dict(subject.inputs(model, batch=1))
    ids = question["input_ids"].clone()
    ids[0, 9:] = ids[0, 9:].masked_fill(ids[0, 9:] == model.config.image_token_id, 20)
    image = ids == model.config.image_token_id
    question |= {
        "input_ids": ids,
        "mm_token_type_ids": image.to(torch.int32),
        "pixel_values": question["pixel_values"][:16],
        "image_grid_thw": question["image_grid_thw"][:1],
    }
    assert int(image.sum()) == 4
    with pytest.raises(InputError, match="refine="):
        ASK.run(model, question, question)
    masks = []

    def refine(mask):
        masks.append(mask)
        return question

    found = ASK.run(model, question, question, refine=refine)
    assert found.contrast.shape == (2, 2)
    np.testing.assert_allclose(found.contrast, 2 * (1 + 2 + 3 + 4), rtol=0.1)  # a question against itself
    assert masks[0].tolist() == found.mask.tolist()
    assert found.refined_answer == found.answer


def test_what_has_no_image_is_refused():
    """Models without image tokens, layers that are not there, other images and grids are refused by name."""
    subject = SUBJECTS["llava"]
    model = subject.model()
    question, general = asked(subject, model)
    with pytest.raises(UnknownNameError, match="20"):
        Carve().run(model, question, general)
    with pytest.raises(InterventionError, match="no image tokens"):
        ASK.run(llama(), {"input_ids": torch.tensor([[3, 4, 5]])}, {"input_ids": torch.tensor([[3, 4]])})
    with pytest.raises(InterventionError, match="does not generate"):
        ASK.run(bert(), question, general)
    cut = {name: general[name][:, 5:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(InputError, match="same image"):
        ASK.run(model, question, {**general, **cut})
    with pytest.raises(InputError, match=r"grid of 3 × 5"):
        Carve(layers=(0,), grid=(3, 5)).run(model, question, general)
    for wrong in (
        {"top": 0.0},
        {"lam": 0.0},
        {"lam": math.inf},
        {"components": 0},
        {"t_start": 32},
        {"layers": ()},
    ):
        with pytest.raises(UsageError):
            Carve(**wrong)
