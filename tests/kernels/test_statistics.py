"""The blocked torch path, plain and in lanes, against the float64 reference."""

import pytest
import torch
from attention_problems import MASKS, Problem, make_problem, problems, tolerance, want_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probe_kernels import Scores, Want, attend, sweep
from probe_kernels.testing import assert_attended_close
from torch import Tensor


def check_top(
    problem: Problem, found: Tensor | None, wanted: Tensor | None, second_gap: float = 1e-5
) -> None:
    """The index is right wherever the best key is clear."""
    assert found is not None
    assert wanted is not None
    assert ((found >= 0) == (wanted >= 0)).all()
    scores = problem.scores
    p = attend(
        scores, problem.layout, Want(z=False, rows={"p": lambda p, _r, _k: p}), backend="reference"
    ).rows["p"]
    if p.shape[-1] > 1:
        best = p.topk(2, dim=-1).values
        clear = best[..., 0] - best[..., 1] > second_gap
        assert (found == wanted)[clear].all()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.sampled_from((0, 1, 2)))
def test_every_statistic_agrees_with_the_reference(problem: Problem, n_lanes: int) -> None:
    """Any mask, head shape, ragged length and path: every statistic is within tolerance of float64."""
    want = want_all(problem)
    found = sweep.attend(problem.scores, problem.layout, want, n_lanes=n_lanes)
    wanted = attend(problem.scores, problem.layout, want, backend="reference")
    assert_attended_close(found, wanted, tolerance=tolerance(problem))
    check_top(problem, found.top_index, wanted.top_index)


@pytest.mark.parametrize("n_lanes", [0, 1, 2])
@pytest.mark.parametrize("mask", MASKS)
def test_many_chunks_agree_with_the_reference(mask: str, n_lanes: int) -> None:
    """Longer sequences, in several chunks with full and partial stretches of keys."""
    problem = make_problem(mask=mask, n_query=300, n_key=310, kv_heads=1, group=3, batch=1)
    want = want_all(problem)
    found = sweep.attend(problem.scores, problem.layout, want, n_lanes=n_lanes)
    wanted = attend(problem.scores, problem.layout, want, backend="reference")
    assert_attended_close(found, wanted, tolerance=2 * tolerance(problem))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("n_lanes", [0, 1])
def test_low_precision_inputs_lose_nothing_inside(dtype: torch.dtype, n_lanes: int) -> None:
    """Inputs are widened first: statistics agree as for float32, and z has the value's dtype."""
    problem = make_problem(dtype=dtype, n_query=40, n_key=40)
    want = want_all(problem)
    found = sweep.attend(problem.scores, problem.layout, want, n_lanes=n_lanes)
    wanted = attend(problem.scores, problem.layout, want, backend="reference")
    assert found.z is not None
    assert found.z.dtype == dtype
    assert found.entropy is not None
    assert found.entropy.dtype == torch.float32
    assert wanted.z is not None
    torch.testing.assert_close(found.z, wanted.z)
    found.z = wanted.z = None
    assert_attended_close(found, wanted)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("n_lanes", [0, 1])
def test_extreme_scores_neither_overflow_nor_underflow(offset: float, n_lanes: int) -> None:
    """A constant of ±10 000 on every score of a row changes lse by it and nothing else."""
    problem = make_problem(n_query=40, n_key=40, width=8)
    query, key = problem.scores.query.clone(), problem.scores.key.clone()
    query[..., -1], key[..., -1] = 100.0, offset / 100
    scores = Scores(query, key, problem.scores.value, scale=1.0)
    want = want_all(problem)
    found = sweep.attend(scores, problem.layout, want, n_lanes=n_lanes)
    wanted = attend(scores, problem.layout, want, backend="reference")
    assert found.lse is not None
    assert found.lse.isfinite().all()
    assert_attended_close(found, wanted, tolerance=5e-6 * max(1.0, abs(offset)))


def test_lanes_are_deterministic() -> None:
    """Two runs with as many lanes give the same bits."""
    problem = make_problem(n_query=200, n_key=200)
    want = want_all(problem)
    a = sweep.attend(problem.scores, problem.layout, want, n_lanes=2)
    b = sweep.attend(problem.scores, problem.layout, want, n_lanes=2)
    assert a.column is not None
    assert b.column is not None
    assert torch.equal(a.column, b.column)
    assert_attended_close(a, b, tolerance=0.0)


def test_what_was_not_wanted_is_none() -> None:
    """A bare call yields z alone."""
    problem = make_problem()
    out = attend(problem.scores, problem.layout, Want())
    assert out.z is not None
    filled = {name for name, one in vars(out).items() if isinstance(one, Tensor)}
    assert filled == {"z"}


def test_rows_see_each_block_once_and_in_order() -> None:
    """A rows callback meets whole rows of p, and its answers are joined over the rows."""
    problem = make_problem(n_query=30, n_key=30, batch=2)
    want = Want(z=False, lse=True, rows={"sum": lambda p, _rows, _keys: p.sum(-1)})
    out = attend(problem.scores, problem.layout, want)
    assert out.rows["sum"].shape == (2, 4, 30)
    torch.testing.assert_close(out.rows["sum"], torch.ones(2, 4, 30))
