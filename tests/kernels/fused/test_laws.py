"""Laws of attention that the Triton kernels keep: masses add up, order does not matter, parts merge."""

import math
from dataclasses import replace
from typing import Any

import torch
from attention_problems import MASKS, Problem, tolerance
from fused_problems import everything, fused, put, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probe_kernels import Mask, Want, merge
from probe_kernels.testing import assert_attended_close, assert_close

FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MERGED = Want(lse=True, entropy=True, square=True, top=True, distance=True, visible=True, offsets=(0, 1))


@st.composite
def problems(draw: st.DrawFn, **fixed: Any) -> Problem:
    """Any mask, group size and ragged length, small enough for the interpreter."""
    n_query = draw(st.sampled_from((1, 17, 33)))
    sizes = {
        "mask": draw(st.sampled_from(MASKS)),
        "group": draw(st.sampled_from((1, 2))),
        "n_query": n_query,
        "n_key": n_query + draw(st.integers(1, 40)),
        "padding": draw(st.booleans()),
        "sinks": draw(st.sampled_from((0, 0, 1))),
        "shuffled": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
    }
    return small(**{**sizes, **fixed})


@FEW
@given(problems())
def test_masses_add_up(problem: Problem) -> None:
    """The table sums to lse without the sink, columns to the rows that hand out mass, and entropy is bounded."""
    out = fused(problem, Want(lse=True, entropy=True, column=True, visible=True, table=16))
    assert out.lse is not None
    assert out.table is not None
    assert out.column is not None
    assert out.visible is not None
    assert out.entropy is not None
    alone = out.table.double().logsumexp(2)
    left = torch.zeros_like(alone) if out.sink_mass is None else out.sink_mass.double()
    alive = (out.visible > 0)[:, None].expand_as(alone)
    assert_close(
        "Σ table", alone[alive], (out.lse + torch.log1p(-left))[alive], tolerance=2 * tolerance(problem)
    )
    handed = alive * (1 - left)
    if problem.layout.query_real is not None:
        handed = handed * problem.layout.query_real[:, None]
    assert_close("Σ columns", out.column.double().sum(-1), handed.sum(-1), tolerance=1e-5)
    outcomes = out.visible[:, None] + (0 if out.sink_mass is None else 1)
    assert (out.entropy >= 0).all()
    assert (out.entropy <= outcomes.clamp_min(1).log() + 10 * tolerance(problem)).all()


@FEW
@given(problems(mask="none", padding=False, shuffled=False, sinks=0), st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(problem: Problem, random: Any) -> None:
    """Keys permuted with their positions: the same rows, and columns permuted alike."""
    n_key = problem.scores.key.shape[2]
    order = put(torch.tensor(random.sample(range(n_key), n_key)))
    want = Want(lse=True, entropy=True, distance=True, first=(1, 3), column=True)
    whole, moved = fused(problem, want), fused(problem.keys(order), want)
    assert whole.column is not None
    whole.column = whole.column[..., order]
    assert_attended_close(moved, whole, tolerance=2 * tolerance(problem))


@FEW
@given(problems(mask="none", padding=False, sinks=0))
def test_every_key_twice_adds_log_2(problem: Problem) -> None:
    """lse and entropy grow by log 2, Σp² halves, z stays."""
    n_key = problem.scores.key.shape[2]
    want = Want(lse=True, entropy=True, square=True)
    once = fused(problem, want)
    twice = fused(problem.keys(put(torch.arange(n_key).repeat(2))), want)
    assert once.lse is not None
    assert once.entropy is not None
    assert once.square is not None
    close = 2 * tolerance(problem)
    assert_close("z", twice.z, once.z, tolerance=close)
    assert_close("lse", twice.lse, once.lse + math.log(2), tolerance=close)
    assert_close("entropy", twice.entropy, once.entropy + math.log(2), tolerance=close)
    assert_close("square", twice.square, once.square / 2, tolerance=close)


@FEW
@given(
    problems(shuffled=False).filter(lambda one: all(p.name != "dense" for p in one.layout.mask.all_of)),
    st.data(),
)
def test_any_split_of_the_keys_merges_to_the_whole(problem: Problem, data: st.DataObject) -> None:
    """Attention over the first keys merged with attention over the rest is attention over all."""
    n_key = problem.scores.key.shape[2]
    cut = data.draw(st.integers(1, n_key - 1))
    left, right = problem.keys(slice(0, cut), sinks=False), problem.keys(slice(cut, n_key))
    parts = merge(fused(left, MERGED), fused(right, MERGED))
    assert_attended_close(parts, fused(problem, MERGED), tolerance=2 * tolerance(problem))


def test_heads_of_a_group_read_the_same_keys() -> None:
    """Keys repeated over the group: the same answers, whichever way rows are packed."""
    for n_query in (2, 40):
        problem = small(n_query=n_query, n_key=60, kv_heads=2, group=3)
        scores = problem.scores
        assert scores.value is not None
        repeated = replace(
            scores, key=scores.key.repeat_interleave(3, 1), value=scores.value.repeat_interleave(3, 1)
        )
        want = Want(lse=True, entropy=True, column=True)
        assert_attended_close(fused(replace(problem, scores=repeated), want), fused(problem, want))


def test_batch_rows_do_not_meet() -> None:
    """Two sequences at different positions, one of them padded, answer as they do alone."""
    problem = small("sliding", batch=2, n_query=20, n_key=50, padding=True)
    layout = problem.layout
    query_pos = torch.cat((layout.query_pos, layout.query_pos - 7))
    key_pos = torch.cat((layout.key_pos, layout.key_pos + 2))
    problem = replace(problem, layout=replace(layout, query_pos=query_pos, key_pos=key_pos))
    want = replace(everything(problem), matches={}, key_groups={}, query_groups={}, parts=frozenset())
    both = fused(problem, want)
    for row in range(2):
        own = slice(row, row + 1)
        scores, layout = problem.scores, problem.layout
        assert scores.value is not None
        alone = replace(scores, query=scores.query[own], key=scores.key[own], value=scores.value[own])
        where = replace(layout, query_pos=query_pos[own], key_pos=key_pos[own])
        if where.key_real is not None and where.query_real is not None:
            where = replace(where, key_real=where.key_real[own], query_real=where.query_real[own])
        found = fused(Problem(alone, where), want)
        for name in ("z", "lse", "entropy", "column", "table"):
            assert_close(name, getattr(both, name)[own], getattr(found, name))


def test_an_empty_mask_and_an_empty_row_have_defined_answers() -> None:
    """z = 0, lse = -inf, entropy 0, every mass 0, no top key."""
    problem = small("nothing", n_query=20, n_key=30)
    out = fused(problem, replace(everything(problem), parts=frozenset()))
    for name in ("z", "entropy", "square", "top_p", "distance", "column"):
        assert not getattr(out, name).any()
    assert out.lse is not None
    assert (out.lse == -torch.inf).all()
    assert out.top_index is not None
    assert (out.top_index == -1).all()
    assert problem.layout.mask != Mask()
