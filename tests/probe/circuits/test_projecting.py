"""Subspaces of a head: one whose dimensions are known, cut keys and values against written ones, laws, bad inputs."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from movers import Fetch, fetch_pairs, mover
from support_pairs import random_pairs

import probe
from probe.circuits.batches import batches
from probe.circuits.engine import engine
from probe.circuits.projecting import subspace
from probe.circuits.subspaces import moved, principal, random, replaced, values_of
from probe.circuits.taps import Write
from probe.errors import InputError, UsageError
from probe.models import LoadedModel, as_loaded
from probe.report.answer import Answer

FREE: dict[str, Any] = {"min_accuracy": 0.0}
SOURCE = 3
MOVER = mover([Fetch(1, 0, SOURCE)])


def _softer() -> LoadedModel:
    """A mover whose scores are not so far apart that any part of them decides."""
    model = mover([Fetch(1, 0, SOURCE)])
    with torch.no_grad():
        asks = model.model.transformer.h[1].attn.c_attn
        asks.weight[:, : asks.weight.shape[0]] *= 0.1
        asks.bias[: asks.weight.shape[0]] *= 0.1
    return model


def _answers(report: probe.Report) -> dict[str, Answer]:
    return {key.partition("part=")[2][0]: report.answer(key) for key in report}


def test_a_head_that_asks_with_one_dimension() -> None:
    """It asks or rests (1 dimension), sees the source, the first token or another (2), and tells words apart (more)."""
    answers = _answers(subspace(_softer(), fetch_pairs(SOURCE, count=16), ["L1.H0"], threshold=0.99))
    ranks = {part: float(answer.head_map.sel(layer=1, head=0)) for part, answer in answers.items()}
    assert ranks["q"] == 1.0
    assert ranks["k"] == 2.0
    assert ranks["v"] > 2.0
    for part, rank in (("q", 1), ("k", 2), ("v", 16)):
        kept = answers[part].extra["kept"].sel(head="L1.H0")
        assert np.allclose(kept.sel(rank=slice(rank, None)), 1.0, atol=1e-2)
        assert float(answers[part].extra["effect"][0]) > 0.4
    # As many dimensions drawn at random are seldom those that count.
    drawn = {part: answer.extra["random_distance"][0].mean("draw") for part, answer in answers.items()}
    assert float(drawn["q"].sel(rank=1)) > 0.02 > float(answers["q"].extra["distance"][0].sel(rank=1))
    assert float(drawn["k"].sel(rank=2)) > 0.02 > float(answers["k"].extra["distance"][0].sel(rank=2))
    assert np.isnan(answers["q"].head_map).sum() == 5


def test_the_heads_of_the_task_are_found() -> None:
    """Without names the head that fetches is among those that are cut."""
    answers = _answers(subspace(MOVER, fetch_pairs(SOURCE), ranks=[1], draws=0))
    assert "L1.H0" in answers["q"].extra["kept"]["head"].values.tolist()
    assert "random_kept" not in answers["q"].extra
    assert answers["q"].extra["kept"]["rank"].values.tolist() == [1, 16]


@pytest.mark.parametrize("model", [tiny.llama(), small_models.gpt2(), tiny.gemma3()])
def test_all_dimensions_change_nothing(model: object) -> None:
    """The full rank keeps everything, of the head's own basis and of random ones."""
    answers = _answers(
        subspace(model, random_pairs(50, count=4), ["L0.H1", "L1.H2"], draws=2, ranks=[1], **FREE)
    )
    assert list(answers) == ["q", "k", "v"]
    for answer in answers.values():
        for name in ("", "random_"):
            full = answer.extra[f"{name}kept"].isel(rank=-1)
            # kept divides by what the mean costs: where that is little, so is what it is off by.
            near = np.abs((full - 1) * answer.extra["effect"])
            assert float(near.max()) < 1e-2
            assert np.allclose(answer.extra[f"{name}distance"].isel(rank=-1), 0.0, atol=1e-4)


@pytest.mark.parametrize("model", [tiny.llama(num_key_value_heads=4), small_models.gpt2()])
@pytest.mark.parametrize("part", ["k", "v"])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_cut_keys_and_values_are_those_that_would_be_written(model: object, part: Any, rank: int) -> None:
    """Cut where the head meets them, or written in their place: the same logits, and the same pattern."""
    with engine(as_loaded(model)) as running:
        (batch,) = batches(random_pairs(50, count=3))
        trace = running.record(batch, "clean", ["q", "k", "v", "z", "pattern"])
        own = values_of(trace, part, 1, 2)
        space = principal(part, own.flatten(0, 1))
        mask = torch.zeros(1, 1, 4, 1, dtype=torch.bool)
        mask[:, :, 2] = True
        put = replaced(trace, space, 1, 2, rank)
        node: Any = "q" if part == "k" else "z"
        cut = running.patched(batch, "clean", {(node, 1): Write(put[:, None], mask)})
        written = Write(space.kept(own, rank)[:, None], mask)
        expected = running.record(batch, "clean", ["z", "pattern"], {(part, 1): written})
    assert torch.allclose(cut[0], expected.logits, atol=1e-4)
    if part == "k":
        apart = (expected.value("pattern", 1) - trace.value("pattern", 1))[:, 2].abs().sum(-1) / 2
        assert torch.allclose(moved(trace, space, 1, 2, put), apart[:, 1:].mean(-1).double(), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(2, 6), st.integers(0, 999))
def test_components_are_the_best_of_their_number(rows: int, width: int, seed: int) -> None:
    """Orthonormal, whatever the number of rows; no random basis keeps more, and more dimensions never keep less."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    space = principal("q", values)
    other = random(space, generator)
    for one in (space, other):
        assert torch.allclose(one.basis.T @ one.basis, torch.eye(width, dtype=torch.float64), atol=1e-9)
        assert torch.allclose(one.kept(values, width), values, atol=1e-9)
        assert torch.allclose(one.kept(values, 0), values.mean(0).expand_as(values))
    lost = [
        [float((one.kept(values, r) - values).square().sum()) for r in range(width + 1)]
        for one in (space, other)
    ]
    assert all(own <= drawn + 1e-9 for own, drawn in zip(*lost, strict=True))
    assert all(later <= earlier + 1e-9 for earlier, later in zip(lost[0][:-1], lost[0][1:], strict=True))


def test_bad_inputs() -> None:
    """Each is refused, and says what to do."""
    pairs = fetch_pairs(SOURCE)
    with pytest.raises(UsageError, match="threshold=0"):
        subspace(MOVER, pairs, threshold=0.0)
    with pytest.raises(UsageError, match=r"head L9\.H0 was asked"):
        subspace(MOVER, pairs, ["L9.H0"])
    with pytest.raises(UsageError, match=r"head L1\.H2 was asked"):
        subspace(MOVER, pairs, ["L1.H2"])
    with pytest.raises(UsageError, match="heads are written like"):
        subspace(MOVER, pairs, ["one"])
    with pytest.raises(UsageError, match="heads have 16 dimensions"):
        subspace(MOVER, pairs, ["L1.H0"], ranks=[0, 4])
    with pytest.raises(UsageError, match="heads have 16 dimensions"):
        subspace(MOVER, pairs, ["L1.H0"], ranks=[17])
    with pytest.raises(InputError, match="one pair"):
        subspace(MOVER, pairs[:1], ["L1.H0"])
