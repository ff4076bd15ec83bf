"""The torch path under a visit: what it skips changes nothing, whatever the visit, the mask and the scores."""

from dataclasses import replace

import pytest
import torch
from attention_problems import MASKS, Problem, make_problem, problems, tolerance, want_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probe_kernels import Attended, BlockEdit, Edits, Want, attend, merge, sweep
from probe_kernels import sparse as torch_path
from probe_kernels.testing import assert_attended_close, assert_close
from probe_kernels.visit import Visit

LAWFUL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def random_visit(
    problem: Problem,
    *,
    rows: int,
    by_head: bool = False,
    by_batch: bool = False,
    share: float = 0.5,
    seed: int = 0,
) -> Visit:
    """Each block of queries keeps each key with a probability; now and then a block keeps none, or another's."""
    random = torch.Generator().manual_seed(seed)
    batch, heads, n_query, _ = problem.scores.query.shape
    size = batch if by_batch else 1, heads if by_head else 1, -(-n_query // rows), problem.scores.key.shape[2]
    kept = torch.rand(size, generator=random) < share
    kept[:, :, 0] &= torch.rand(size[:2], generator=random)[..., None] > 0.3
    if size[2] > 2:
        kept[:, :, 1] = kept[:, :, 2]
    if by_head and heads > 1:
        kept[:, 1] = kept[:, 0]
    return Visit.of_keys(kept, rows)


def both(problem: Problem, want: Want, visit: Visit) -> tuple[Attended, Attended]:
    """What the torch path and the float64 reference answer."""
    return tuple(
        attend(problem.scores, problem.layout, want, visit=visit, backend=backend)
        for backend in ("torch", "reference")
    )


@LAWFUL
@given(
    problems(),
    st.sampled_from((1, 3, 16, 64)),
    st.booleans(),
    st.booleans(),
    st.sampled_from((0.0, 0.2, 0.7, 1.0)),
)
def test_every_statistic_is_that_of_the_reference(
    problem: Problem, rows: int, by_head: bool, by_batch: bool, share: float
) -> None:
    """Any mask, padding, sink, softcap, bias, ALiBi, order of keys, grouped heads, empty lists: all fields agree."""
    visit = random_visit(problem, rows=rows, by_head=by_head, by_batch=by_batch, share=share)
    found, wanted = both(problem, want_all(problem), visit)
    assert_attended_close(found, wanted, tolerance=tolerance(problem))
    assert_top(found, wanted)


def assert_top(found: Attended, wanted: Attended) -> None:
    """Where the largest probability is clear of ties, its key is the reference's, counted in the call's storage."""
    assert found.top_index is not None
    assert wanted.top_index is not None
    assert wanted.top_p is not None
    clear = wanted.top_p > 0.501
    assert torch.equal(found.top_index[clear], wanted.top_index[clear])
    assert torch.equal(found.top_index < 0, wanted.top_index < 0)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_lanes_answer_alike(mask: str, by_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lanes share the blocks: nothing is lost, nothing counted twice."""
    monkeypatch.setattr(sweep, "_WORTH", 1)
    monkeypatch.setattr("probe_kernels.lanes.count", lambda: 3)
    problem = make_problem(batch=2, n_query=70, n_key=90, mask=mask, padding=True, alibi=True, sinks=1)
    visit = random_visit(problem, rows=16, by_head=by_head, by_batch=True)
    assert_attended_close(*both(problem, want_all(problem), visit), tolerance=tolerance(problem))


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_visit_of_every_key_changes_nothing(rows: int) -> None:
    """Counts included: shared by all heads, they have no axis for them."""
    problem = make_problem(batch=2, n_query=33, n_key=40, mask="sliding", padding=True)
    visit = random_visit(problem, rows=rows, share=1.1)
    kept = visit.kept(slice(0, 99), 40)
    every = Visit.of_keys(torch.ones_like(kept), rows)
    want = want_all(problem)
    whole = attend(problem.scores, problem.layout, want)
    assert_attended_close(attend(problem.scores, problem.layout, want, visit=every), whole)


def test_counts_have_an_axis_of_heads_where_heads_differ() -> None:
    """And none where they do not."""
    problem = make_problem(batch=2)
    want = Want(visible=True, column=True, bands=((0, 3),))
    for by_head, middle in ((False, ()), (True, (4,))):
        out = attend(
            problem.scores, problem.layout, want, visit=random_visit(problem, rows=4, by_head=by_head)
        )
        for count in (out.visible, out.seen_by, out.band_seen_by[0, 3]):
            assert count is not None
            assert count.shape == (2, *middle, 20)


def test_hidden_keys_leak_nothing() -> None:
    """NaN in keys and values that no block lists reaches no answer."""
    problem = make_problem(mask="none")
    assert problem.scores.value is not None
    key, value = problem.scores.key.clone(), problem.scores.value.clone()
    kept = torch.ones(1, 4, 4, 20, dtype=torch.bool)
    kept[..., 7] = False
    visit = Visit.of_keys(kept, 5)
    clean = attend(problem.scores, problem.layout, want_all(problem), visit=visit)
    key[:, :, 7], value[:, :, 7] = torch.nan, torch.inf
    poisoned = Problem(replace(problem.scores, key=key, value=value), problem.layout)
    assert_attended_close(
        attend(poisoned.scores, poisoned.layout, want_all(problem), visit=visit), clean, tolerance=0.0
    )


def test_z_carries_gradients() -> None:
    """As the dense sweep does with the same keys hidden by a mask."""
    problem = make_problem(batch=2, n_query=20, sinks=1, mask="sliding")
    visit = random_visit(problem, rows=4, by_head=True, by_batch=True)
    one = problem.scores
    leaves = [part.clone().requires_grad_() for part in (one.query, one.key, one.value)]
    scores = replace(one, query=leaves[0], key=leaves[1], value=leaves[2])
    weight = torch.randn(2, 4, 20, 8, generator=torch.Generator().manual_seed(1))
    found = attend(scores, problem.layout, Want(entropy=True), visit=visit)
    assert found.z is not None
    assert found.entropy is not None
    got = torch.autograd.grad((found.z * weight).sum(), leaves)
    exact = attend(scores, problem.layout, Want(), visit=visit, backend="reference").z
    assert exact is not None
    for name, a, b in zip("qkv", got, torch.autograd.grad((exact * weight).sum(), leaves), strict=True):
        assert_close(f"gradient of {name}", a, b)


def test_what_is_not_listed_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is given as many pairs as the visit lists, and neighbours with one list go together."""
    problem = make_problem(n_query=64, n_key=64, mask="none")
    kept = torch.zeros(1, 1, 8, 64, dtype=torch.bool)
    kept[:, :, :4, :6] = True
    kept[:, :, 4:, 8:20] = True
    sizes = []

    def spy(scores, layout, want, **how):
        sizes.append((scores.query.shape[2], scores.key.shape[2]))
        return real(scores, layout, want, **how)

    real = sweep.attend
    monkeypatch.setattr(torch_path.sweep, "attend", spy)
    attend(problem.scores, problem.layout, Want(), visit=Visit.of_keys(kept, 8))
    assert sizes == [(32, 6), (32, 12)]


def test_edits_and_rows_are_refused_by_name() -> None:
    """They are given slices of storage, which a visit does not have; an edit of no head is none."""
    problem = make_problem()
    visit = random_visit(problem, rows=4)
    change = BlockEdit(lambda p, _rows, _keys: p, heads=(0,))
    with pytest.raises(ValueError, match="edits under a visit"):
        attend(problem.scores, problem.layout, Want(), visit=visit, edits=Edits(probs=(change,)))
    nobody = Edits(probs=(replace(change, heads=()),))
    assert attend(problem.scores, problem.layout, Want(), visit=visit, edits=nobody).z is not None
    with pytest.raises(ValueError, match=r"rows \['mine'\]"):
        attend(problem.scores, problem.layout, Want(rows={"mine": lambda p, _r, _k: p}), visit=visit)


def test_attention_over_listed_and_other_keys_merges_to_the_whole() -> None:
    """A visit and its complement are disjoint: the chain rule joins them, counts by head included."""
    problem = make_problem(batch=2, mask="none")
    kept = torch.rand(1, 4, 5, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    want = Want(lse=True, entropy=True, distance=True, visible=True)
    parts = [
        attend(problem.scores, problem.layout, want, visit=Visit.of_keys(one, 4)) for one in (kept, ~kept)
    ]
    whole = attend(problem.scores, problem.layout, want)
    joined = merge(*parts)
    for name in ("z", "lse", "entropy", "distance"):
        assert_close(name, getattr(joined, name), getattr(whole, name))
    assert joined.visible is not None
    assert joined.visible.shape == (2, 4, 20)
    assert (joined.visible == 20).all()
