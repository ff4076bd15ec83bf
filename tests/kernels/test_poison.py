"""Nothing may leak from keys that are hidden or padding, whatever their memory holds."""

from dataclasses import replace

import pytest
import torch
from attention_problems import Problem, make_problem, want_all
from probe_kernels import Layout, Mask, Scores, Want, attend, sweep
from probe_kernels.mask import causal, same_segment
from probe_kernels.testing import assert_attended_close

POISONS = (float("nan"), float("inf"), float("-inf"))


def poisoned(problem: Problem, keys: torch.Tensor, poison: float, where: str) -> Scores:
    """The scores with `poison` in K and/or V of some keys, bool [batch, key]."""
    one = problem.scores
    assert one.value is not None
    at = keys[:, None, :, None]
    key = one.key.masked_fill(at, poison) if "k" in where else one.key
    value = one.value.masked_fill(at, poison) if "v" in where else one.value
    return replace(one, key=key, value=value)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("where", ["k", "v", "kv"])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_padding_may_hold_anything(poison: float, where: str, backend: str) -> None:
    """Padding keys full of NaN or infinity change no answer at all."""
    problem = make_problem(batch=2, n_query=40, n_key=40, padding=True)
    assert problem.layout.key_real is not None
    want = want_all(problem)
    clean = attend(problem.scores, problem.layout, want, backend=backend)
    scores = poisoned(problem, ~problem.layout.key_real, poison, where)
    assert_attended_close(attend(scores, problem.layout, want, backend=backend), clean)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("where", ["k", "v", "kv"])
def test_rows_that_do_not_see_a_key_never_meet_it(poison: float, where: str) -> None:
    """Causal: poison in the last keys leaves every earlier row, and their masses, alone."""
    problem = make_problem(n_query=60, n_key=60)
    late = torch.arange(60)[None] >= 50
    want = Want(lse=True, entropy=True, square=True, distance=True, first=(1,), offsets=(1,))
    clean = attend(problem.scores, problem.layout, want)
    found = attend(poisoned(problem, late, poison, where), problem.layout, want)
    assert found.z is not None
    assert clean.z is not None
    torch.testing.assert_close(found.z[:, :, :50], clean.z[:, :, :50])
    for name in ("lse", "entropy", "square", "distance"):
        torch.testing.assert_close(getattr(found, name)[:, :, :50], getattr(clean, name)[:, :, :50])
    if "v" in where:
        assert found.z[:, :, 50:].isnan().all()


@pytest.mark.parametrize("poison", POISONS)
def test_packed_sequences_do_not_meet(poison: float) -> None:
    """A poisoned sequence leaves its neighbour's rows and columns alone."""
    problem = make_problem(n_query=48, n_key=48)
    segments = (torch.arange(48) // 24)[None]
    mask = Mask((causal(), same_segment()))
    layout = Layout(mask, problem.layout.query_pos, problem.layout.key_pos, segments, segments)
    want = Want(lse=True, entropy=True, column=True, bands=((0, 5),), query_groups={"half": segments})
    clean = attend(problem.scores, layout, want)
    found = attend(poisoned(problem, segments == 0, poison, "kv"), layout, want)
    assert found.z is not None
    assert clean.z is not None
    torch.testing.assert_close(found.z[:, :, 24:], clean.z[:, :, 24:])
    assert found.column is not None
    assert clean.column is not None
    torch.testing.assert_close(found.column[..., 24:], clean.column[..., 24:])
    torch.testing.assert_close(found.bands[0, 5][..., 24:], clean.bands[0, 5][..., 24:])
    assert found.query_groups["half"].shape == clean.query_groups["half"].shape
    torch.testing.assert_close(found.query_groups["half"][:, :, 1], clean.query_groups["half"][:, :, 1])


def test_padding_queries_are_left_out_of_every_sum() -> None:
    """Poisoned padding queries answer for themselves only."""
    problem = make_problem(batch=2, n_query=30, n_key=30, padding=True)
    real = problem.layout.query_real
    assert real is not None
    query = problem.scores.query.masked_fill(~real[:, None, :, None], float("nan"))
    layout = replace(problem.layout, key_real=None)
    want = Want(column=True, bands=((0, 4),), query_groups={"all": torch.zeros(1, 30, dtype=torch.int16)})
    clean = attend(problem.scores, layout, want)
    found = attend(replace(problem.scores, query=query), layout, want)
    torch.testing.assert_close(found.column, clean.column)
    torch.testing.assert_close(found.bands[0, 4], clean.bands[0, 4])
    torch.testing.assert_close(found.query_groups["all"], clean.query_groups["all"])


def test_buffers_carry_nothing_between_calls() -> None:
    """A call in lanes after a call that left huge numbers in the scratch memory is untouched by them."""
    problem = make_problem(n_query=64, n_key=64)
    want = want_all(problem)
    clean = sweep.attend(problem.scores, problem.layout, want, n_lanes=1)
    huge = replace(problem.scores, scale=1e30)
    sweep.attend(huge, problem.layout, want, n_lanes=1)
    assert_attended_close(sweep.attend(problem.scores, problem.layout, want, n_lanes=1), clean, tolerance=0.0)
