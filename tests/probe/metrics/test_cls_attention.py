"""The CLS token's row, where there is one; else the reason why not."""

import numpy as np
import pytest
import small_models
import tiny
import torch

from probe.metrics import answers, make
from probe.report.answer import Answer
from probe.seam.session import Session


def on_text(model: torch.nn.Module, bos: bool) -> Answer:
    metric, ids = make("cls_attention"), tiny.tokens(1, 9)
    flags = torch.arange(9) == 0
    with Session(model, [metric]) as session, torch.no_grad():
        session.announce([{"bos": flags & bos}])
        inputs = {"input_ids": ids}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids
        model(**inputs)
    return answers(metric)[0]


def test_text_encoder_equals_the_eager_row() -> None:
    """Token map = row 0 of the eager pattern without CLS itself; head = its sum."""
    model = tiny.bert()
    answer = on_text(model, bos=True)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(tiny.tokens(1, 9), output_attentions=True).attentions
    rows = torch.stack([one[0, :, 0] for one in attentions]).numpy()
    assert np.isnan(answer.token_maps[0][..., 0]).all()
    np.testing.assert_allclose(answer.token_maps[0][..., 1:], rows[..., 1:], atol=1e-5)
    np.testing.assert_allclose(answer.head_map, 1 - rows[..., 0], atol=1e-5)


def test_vision_tower_has_its_learned_token() -> None:
    """Every patch of a ViT gets what row 0 gives it."""
    model, metric = small_models.vit(), make("cls_attention")
    pixels = torch.randn(1, 3, 32, 32)
    with Session(model, [metric]), torch.no_grad():
        model(pixel_values=pixels)
    answer = answers(metric)[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(pixel_values=pixels, output_attentions=True).attentions
    rows = torch.stack([one[0, :, 0] for one in attentions]).numpy()
    assert answer.tower == "vision"
    np.testing.assert_allclose(answer.token_maps[0][..., 1:], rows[..., 1:], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "bos", "why"),
    [
        (tiny.bert, False, "do not start with a CLS token"),
        (tiny.llama, True, "only encoders have one"),
        (tiny.t5, False, "do not start with a CLS token"),
    ],
)
def test_without_a_cls_token_it_is_not_applicable(model: object, bos: bool, why: str) -> None:
    """No number, and the reason in a note."""
    answer = on_text(model(), bos)
    assert np.isnan(answer.head_map).all()
    assert any(why in note for note in answer.notes)
