"""HiPrune's sets on grids that can be drawn, and on a vision encoder."""

import numpy as np
import pytest
import small_models
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ProbeError, UnknownNameError, UsageError
from probe.metrics import answers, make
from probe.metrics.patch_sets import patch_sets
from probe.seam.session import Session


def receives(n: int, *best: int) -> torch.Tensor:
    """What patches receive: the best first, nothing else much."""
    values = torch.zeros(n, dtype=torch.float64)
    for rank, patch in enumerate(best):
        values[patch] = len(best) - rank
    return values


def test_sets_of_a_four_by_four_grid() -> None:
    """An anchor at the end of a row has three neighbours; with wrap, the first of the next row as well."""
    middle, deep = receives(16, 7), receives(16, 7, 3, 0, 15, 8)
    plain = patch_sets(middle, deep, keep=6, alpha=1.0, wide=4)
    assert plain.tolist() == [3, 0, 0, 2, 0, 0, 2, 1, 0, 0, 0, 2, 0, 0, 0, 3]
    wrapped = patch_sets(middle, deep, keep=6, alpha=1.0, wide=4, wrap=True)
    assert wrapped.tolist() == [3, 0, 0, 2, 0, 0, 2, 1, 2, 0, 0, 2, 0, 0, 0, 0]


@given(
    side=st.integers(1, 7),
    share=st.floats(0.05, 1),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 99),
    wrap=st.booleans(),
)
def test_the_budget_is_kept_to_the_patch(
    side: int, share: float, alpha: float, seed: int, wrap: bool
) -> None:
    """As many patches are kept as were asked, and the largest of the middle layer is among them."""
    draw = torch.Generator().manual_seed(seed)
    middle, deep = torch.rand(2, side * side, generator=draw, dtype=torch.float64)
    keep = max(1, round(share * side * side))
    sets = patch_sets(middle, deep, keep, alpha, side, wrap=wrap)
    assert int((sets > 0).sum()) == keep
    assert int(sets[middle.argmax()]) == 1


def test_a_vision_encoder() -> None:
    """The kept share is that of the eager columns; 16 patches lie behind one CLS token."""
    model, metric = small_models.vit(), make("hiprune:layer=0,deep=1,keep=0.5,alpha=0.5")
    pixels = torch.randn(1, 3, 32, 32)
    with Session(model, [metric]), torch.no_grad():
        model(pixel_values=pixels)
    answer = answers(metric)[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(pixel_values=pixels, output_attentions=True).attentions
    first, last = (one[0].mean(0).mean(0)[1:].double() for one in layers)
    sets = patch_sets(first, last, 8, 0.5, 4)
    assert np.isnan(answer.token_maps[0][0, 0])
    assert answer.token_maps[0][0, 1:].values.tolist() == sets.tolist()
    assert answer.head_map["layer"].values.tolist() == [1]
    assert float(answer.head_map[0]) == pytest.approx(float(last[sets > 0].sum() / last.sum()), rel=1e-5)
    assert float(answer.extra["anchors"][0]) + float(answer.extra["buffers"][0]) + float(
        answer.extra["registers"][0]
    ) == pytest.approx(8)
    assert float(answer.extra["alike"][0]) == 0.5


def test_a_text_encoder_is_a_grid_of_one_row() -> None:
    """Neighbours are the words beside it."""
    model, metric = tiny.bert(), make("hiprune:keep=0.5")
    with Session(model, [metric]) as session, torch.no_grad():
        session.announce([{"bos": torch.arange(13) == 0}])
        model(input_ids=tiny.tokens(1, 13))
    sets = answers(metric)[0].token_maps[0][0].values
    anchor = int(np.flatnonzero(sets == 1)[0])
    beside = [at for at in (anchor - 1, anchor + 1) if 1 <= at < 13]
    assert (sets[beside] == 2).all()
    assert (sets[1:] > 0).sum() == 6


def test_decoders_are_not_applicable() -> None:
    """A decoder's tokens are not pruned so."""
    model, metric = tiny.llama(), make("hiprune")
    with Session(model, [metric]), torch.no_grad():
        model(tiny.tokens(1, 8))
    answer = answers(metric)[0]
    assert np.isnan(answer.head_map).all()
    assert "tokens of an encoder" in answer.notes[0]


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("hiprune:layer=7", UnknownNameError),
        ("hiprune:layer=1,deep=0", UsageError),
        ("hiprune:grid=4by4", UsageError),
        ("hiprune:keep=0", UsageError),
    ],
)
def test_bad_parameters_are_refused(spec: str, error: type[ProbeError]) -> None:
    """Layers that are not there or turned round, a grid that is none, an empty budget."""
    model = small_models.vit()
    with pytest.raises(error), Session(model, [make(spec)]):
        pass
