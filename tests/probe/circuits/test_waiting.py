"""All-for-One: a model that transfers in one layer, laws of the stages, and bad inputs."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
import xarray as xr
from movers import Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.batches import batches
from probe.circuits.engine import engine
from probe.circuits.peeking import Peeking
from probe.circuits.token_means import Own, token_means
from probe.circuits.waiting import all_for_one
from probe.errors import InputError, UsageError
from probe.models import as_loaded
from probe.report.answer import Answer
from probe.seam.session import Session

FREE: dict[str, Any] = {"min_accuracy": 0.0}
SOURCE = 3


def _answer(model: object, pairs: object, transfer: int = 1, **changes: Any) -> Answer:
    report = all_for_one(model, pairs, transfer, **changes)  # type: ignore[arg-type]
    (key,) = report
    return report.answer(key)


def _at(grid: xr.DataArray, **where: Any) -> float:
    return float(grid.sel(**where))


def test_a_model_that_transfers_in_one_layer() -> None:
    """Waiting until the layer that fetches keeps all of it; waiting longer, or peeking elsewhere, loses it."""
    answer = _answer(mover([Fetch(1, 0, SOURCE)]), fetch_pairs(SOURCE, count=40), transfers=(0, 1, 2, 3))
    assert answer.head_map.sel(layer=1) == 1.0
    assert answer.head_map.sel(layer=0) < 0.5
    assert answer.head_map.sel(layer=2) < 0.5
    grid = answer.extra["grid"]
    assert _at(grid, layer=0, transfer=2) == 1.0
    assert _at(grid, layer=1, transfer=0) < 0.5
    assert _at(answer.extra["measure"], layer=1, transfer=1) == pytest.approx(1.0, abs=1e-5)
    control = answer.extra["control"].sel(layer=1)
    assert _at(control, mean="token") == 1.0
    # Behind the mean over all tokens of the position nothing tells the prompts apart.
    assert _at(control, mean="position") < 0.5


def test_a_detour_over_another_token_does_not_pass() -> None:
    """What a middle token computed from its prompt is lost while it waits, and kept where nobody waits."""
    pairs = fetch_pairs(SOURCE, count=30)
    model = mover([Fetch(0, 0, SOURCE)])  # fetched in layer 0: gone where tokens wait until layer 1
    waiting = _answer(model, pairs).extra["wait_only"]
    assert _at(waiting, layer=0, mean="token") == 1.0
    assert _at(waiting, layer=1, mean="token") < 0.5


@pytest.mark.parametrize("model", [tiny.llama(), small_models.gpt2(), tiny.gemma3()])
def test_nothing_waits_at_the_first_layer(model: object) -> None:
    """The state entering the first layer is that of the token and its position: its mean is itself."""
    pairs = random_pairs(50, count=4, length=6)
    # Every token of a pair stands at its place in another pair's prompts too.
    doubled = [*pairs, *pairs]
    with engine(as_loaded(model)) as running:
        (batch,) = batches(doubled)
        table = token_means(running, [batch], batch.length, 64)
        trace = running.record(batch, "clean", ["resid_pre"])
        given, seen = table.given_token(0, batch.ids("clean", torch.device("cpu")))
        assert bool(seen.all())
        assert torch.allclose(given.float(), trace.value("resid_pre", 0)[:, 0], atol=1e-6)
        assert table.prompts == 16


def test_means_are_conditional_and_leave_the_own_pair_out() -> None:
    """Against means taken prompt by prompt in a loop."""
    model = as_loaded(tiny.llama())
    pairs = random_pairs(6, count=7, length=5)
    with engine(model) as running:
        (batch,) = batches(pairs)
        traces = {side: running.record(batch, side, ["resid_pre"]) for side in ("clean", "corrupt")}  # type: ignore[arg-type]
        ids = {side: batch.ids(side, model.device) for side in traces}  # type: ignore[arg-type]
        table = token_means(running, [batch], batch.length, 64)
        own = [Own(ids[side], traces[side]) for side in traces]
        given, seen = table.given_token(1, ids["clean"], own)
        flat = table.at_position(1, own)
    for pair, place in product(range(7), range(5)):
        others = [(side, other) for side in traces for other in range(7) if other != pair]
        rows = [traces[side].value("resid_pre", 1)[other, 0, place].double() for side, other in others]
        wanted = int(ids["clean"][pair, place])
        same = [
            row for row, (side, n) in zip(rows, others, strict=True) if int(ids[side][n, place]) == wanted
        ]
        assert bool(seen[pair, place]) == bool(same)
        assert torch.allclose(given[pair, place], torch.stack(same or rows).mean(0), atol=1e-9)
        assert torch.allclose(flat[pair, place], torch.stack(rows).mean(0), atol=1e-9)


@pytest.mark.parametrize("model", [tiny.llama(), small_models.gpt2()])
@pytest.mark.parametrize("peek", [(), (0, 1)])
def test_cut_attention_is_that_of_a_mask(model: Any, peek: tuple[int, ...]) -> None:
    """Against the model's own attention under an explicit mask; outside the block nothing is cut."""
    ids, n = tiny.tokens(2, 7) % 50, 7
    seen = torch.eye(n, dtype=torch.bool)
    seen[:, 0] = True
    if peek:
        seen[-1] = True
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min).expand(2, 1, n, n)
    with torch.no_grad():
        expected, plain = model(input_ids=ids, attention_mask=mask).logits, model(input_ids=ids).logits
        peeking = Peeking()
        with Session(model, (), [peeking], mode="fused"):
            with peeking.cutting([0, 1], peek, n - 1):
                cut = model(input_ids=ids).logits
            after = model(input_ids=ids).logits
    assert torch.allclose(cut, expected, atol=1e-4)
    assert torch.allclose(after, plain, atol=1e-4)
    assert not torch.allclose(cut, plain, atol=1e-2)


def test_only_solved_pairs_count() -> None:
    """A pair whose likeliest token is not right is NaN by prompt and no part of the mean."""
    good = fetch_pairs(SOURCE, count=6)
    bad = fetch_pairs(SOURCE + 1, count=2, seed=5)  # nobody fetches from there
    report = all_for_one(mover([Fetch(1, 0, SOURCE)]), [*good, *bad], 1, **FREE)
    (key,) = report
    answer = report.answer(key)
    assert answer.by_prompt is not None
    values = answer.by_prompt.sel(layer=1).to_numpy()
    assert np.isnan(values[-2:]).all()
    assert np.nanmean(values) == answer.head_map.sel(layer=1)
    assert any("likeliest token is right on 6 of 8" in note for note in report.provenance.notes)


def test_numbers_that_are_no_counts() -> None:
    """Refused before anything runs."""
    model, pairs = mover([Fetch(1, 0, SOURCE)]), fetch_pairs(SOURCE)
    with pytest.raises(UsageError, match="transfer=-1 was asked; it is a whole number, 0 or more"):
        all_for_one(model, pairs, -1)
    with pytest.raises(UsageError, match="transfer=-2"):
        all_for_one(model, pairs, 1, transfers=[1, -2])
    with pytest.raises(UsageError, match="reference=0"):
        all_for_one(model, pairs, 1, reference=0)


def test_what_cannot_be_averaged_is_refused() -> None:
    """One pair has no others; an unsolved task has no accuracy; a layer must be there."""
    model = mover([Fetch(1, 0, SOURCE)])
    with pytest.raises(InputError, match="one pair alone"):
        all_for_one(model, fetch_pairs(SOURCE, count=1), 1)
    with pytest.raises(UsageError, match="layer 9"):
        all_for_one(model, fetch_pairs(SOURCE), 1, layers=[9])
    unsolved = [replace(pair, right=pair.wrong, wrong=pair.right) for pair in fetch_pairs(SOURCE)]
    with pytest.raises(UsageError, match="does not solve"):
        all_for_one(model, unsolved, 1)
    with pytest.raises(UsageError, match="on none of"):
        all_for_one(model, unsolved, 1, **FREE)
