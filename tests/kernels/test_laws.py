"""Laws that hold for any attention: masses add up, entropy is bounded, order does not matter, parts merge."""

import math
from itertools import pairwise

import pytest
import torch
from attention_problems import Problem, make_problem, problems, tolerance
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from probe_kernels import Attended, Layout, Mask, Want, attend, merge, sweep
from probe_kernels.testing import assert_attended_close, assert_close

LAWFUL = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MERGED = Want(
    lse=True,
    entropy=True,
    square=True,
    top=True,
    distance=True,
    visible=True,
    first=(1, 2, 3),
    offsets=(0, 1),
)


@LAWFUL
@given(problems())
def test_columns_add_up_to_the_mass_of_live_rows(problem: Problem) -> None:
    """Each real row that sees a key hands out 1, less its sink's share."""
    out = attend(problem.scores, problem.layout, Want(lse=True, column=True))
    assert out.column is not None
    assert out.lse is not None
    alive = attend(problem.scores, problem.layout, Want(z=False, visible=True)).visible
    assert alive is not None
    given_out = (alive > 0)[:, None].expand_as(out.lse).double()
    if out.sink_mass is not None:
        given_out = given_out * (1 - out.sink_mass.double())
    if problem.layout.query_real is not None:
        given_out = given_out * problem.layout.query_real[:, None]
    assert_close("Σ columns", out.column.double().sum(-1), given_out.sum(-1), tolerance=1e-5)


@LAWFUL
@given(problems())
def test_entropy_lies_between_zero_and_log_of_what_is_visible(problem: Problem) -> None:
    """0 ≤ H ≤ log(visible keys), one more outcome with a sink; exp(-H) ≤ top p; 1/Σp² ≤ visible."""
    out = attend(problem.scores, problem.layout, Want(entropy=True, visible=True, top=True, square=True))
    assert out.entropy is not None
    assert out.visible is not None
    outcomes = out.visible[:, None].double() + (0 if out.sink_mass is None else 1)
    bound = outcomes.clamp_min(1).log() + 10 * tolerance(problem)
    assert (out.entropy >= 0).all()
    assert (out.entropy <= bound).all()
    assert out.square is not None
    alive = out.visible[:, None].expand_as(out.square) > 0
    if out.sink_mass is None:
        assert (out.square[alive] * out.visible[:, None].expand_as(alive)[alive] >= 1 - 1e-4).all()


@LAWFUL
@given(problems(), st.integers(1, 74))
def test_any_split_of_the_keys_merges_to_the_whole(problem: Problem, cut: int) -> None:
    """Attention over the first keys merged with attention over the rest is attention over all."""
    n_key = problem.scores.key.shape[2]
    assume(cut < n_key and problem.scores.bias is None)
    assume(not any(p.name == "dense" for p in problem.layout.mask.all_of))
    assume(int(problem.layout.key_pos.diff().min()) > 0)  # `first` merges earlier keys before later ones
    left, right = problem.keys(slice(0, cut), sinks=False), problem.keys(slice(cut, n_key))
    whole = attend(problem.scores, problem.layout, MERGED)
    parts = merge(attend(left.scores, left.layout, MERGED), attend(right.scores, right.layout, MERGED))
    assert parts.n_keys == whole.n_keys
    assert_attended_close(parts, whole, tolerance=2 * tolerance(problem))


@LAWFUL
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(13, 22))
def test_merging_is_associative(seed: int, first_cut: int, second_cut: int) -> None:
    """(a + b) + c = a + (b + c), tables and groups included."""
    problem = make_problem(n_query=9, n_key=24, mask="sliding", seed=seed)
    groups = torch.randint(-1, 3, (1, 24), generator=torch.Generator().manual_seed(seed))
    ends = [0, first_cut, second_cut, 24]
    parts: list[Attended] = []
    for lo, hi in pairwise(ends):
        piece = problem.keys(slice(lo, hi))
        want = Want(**{**vars(MERGED), "key_groups": {"g": groups[:, lo:hi]}, "parts": frozenset({"g"})})
        parts.append(attend(piece.scores, piece.layout, want))
    a, b, c = parts
    assert_attended_close(merge(merge(a, b), c), merge(a, merge(b, c)))


def test_tables_join_at_the_edge_of_a_block() -> None:
    """The block-LSE table of two halves is that of the whole; off the edge it is refused."""
    problem = make_problem(n_query=24, n_key=24)
    want = Want(lse=True, table=4)
    left, right = problem.keys(slice(0, 8)), problem.keys(slice(8, 24))
    whole = attend(problem.scores, problem.layout, want)
    halves = [attend(one.scores, one.layout, want) for one in (left, right)]
    assert_close("table", merge(*halves).table, whole.table)
    uneven = [
        attend(one.scores, one.layout, want)
        for one in (problem.keys(slice(0, 6)), problem.keys(slice(6, 24)))
    ]
    with pytest.raises(ValueError, match="block's edge"):
        merge(*uneven)


@pytest.mark.parametrize(
    "want",
    [Want(), Want(lse=True, column=True), Want(lse=True, bands=((0, 1),))],
    ids=["lse", "column", "bands"],
)
def test_merge_refuses_what_cannot_be_joined(want: Want) -> None:
    """Without lse, or with sums over queries, merge says why it cannot."""
    problem = make_problem()
    out = attend(problem.scores, problem.layout, want)
    with pytest.raises(ValueError, match="merge"):
        merge(out, out)


def test_merge_refuses_two_sinks() -> None:
    """A learned sink may be counted once."""
    problem = make_problem(sinks=1)
    out = attend(problem.scores, problem.layout, Want(lse=True))
    with pytest.raises(ValueError, match="sink"):
        merge(out, out)


@LAWFUL
@given(st.integers(0, 1000), st.sampled_from(("none", "causal", "sliding", "chunked", "prefix", "rule")))
def test_the_order_of_keys_in_storage_does_not_matter(seed: int, mask: str) -> None:
    """Permuting keys with their positions permutes columns and changes no row."""
    problem = make_problem(n_query=20, n_key=25, mask=mask, seed=seed)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    moved = problem.keys(order)
    want = Want(
        lse=True, entropy=True, distance=True, column=True, first=(1, 3), offsets=(1,), bands=((0, 3),)
    )
    a, b = attend(problem.scores, problem.layout, want), attend(moved.scores, moved.layout, want)
    for name in ("z", "lse", "entropy", "distance"):
        assert_close(name, getattr(b, name), getattr(a, name))
    assert_close("first", b.first[3], a.first[3])
    assert_close("offset", b.offsets[1], a.offsets[1])
    assert a.column is not None
    assert_close("column", b.column, a.column[..., order])
    assert_close("band", b.bands[0, 3], a.bands[0, 3][..., order])


def test_a_duplicate_of_every_key_adds_log_two() -> None:
    """Seeing each key twice adds log 2 to lse and to the entropy, and leaves z as it is."""
    problem = make_problem(mask="none")
    twice = problem.keys(torch.arange(20).repeat(2))
    want = Want(lse=True, entropy=True, square=True)
    a, b = attend(problem.scores, problem.layout, want), attend(twice.scores, twice.layout, want)
    assert a.lse is not None
    assert a.entropy is not None
    assert a.square is not None
    assert_close("lse", b.lse, a.lse + math.log(2))
    assert_close("entropy", b.entropy, a.entropy + math.log(2))
    assert_close("square", b.square, a.square / 2)
    assert_close("z", b.z, a.z)


def test_uniform_and_one_hot_patterns_have_known_statistics() -> None:
    """Equal scores: H = log n, Σp² = 1/n. One huge score: H = 0, all mass on it."""
    problem = make_problem(n_query=12, n_key=12, mask="causal", scale=0.0)
    out = attend(problem.scores, problem.layout, Want(entropy=True, square=True, first=(1,), distance=True))
    n = torch.arange(1, 13, dtype=torch.float32).expand(1, 4, 12)
    assert_close("entropy", out.entropy, n.log())
    assert_close("square", out.square, 1 / n)
    assert_close("first", out.first[1], 1 / n)
    assert_close("distance", out.distance, (n - 1) / 2)


@pytest.mark.parametrize("n_lanes", [0, 1])
@pytest.mark.parametrize("sinks", [0, 1])
def test_rows_that_see_no_key_have_the_stated_answers(n_lanes: int, sinks: int) -> None:
    """z = 0, entropy = 0, masses 0, top index -1; lse = -inf, or the sink's logit where there is one."""
    problem = make_problem(mask="nothing", n_query=18, n_key=18, sinks=sinks)
    want = Want(
        lse=True, entropy=True, square=True, top=True, distance=True, visible=True, column=True, first=(1,)
    )
    out = sweep.attend(problem.scores, problem.layout, want, n_lanes=n_lanes)
    for name in ("z", "entropy", "square", "top_p", "distance", "visible", "column", "seen_by"):
        assert not getattr(out, name).any(), name
    assert out.top_index is not None
    assert (out.top_index == -1).all()
    assert out.lse is not None
    if sinks == 0:
        assert (out.lse == -torch.inf).all()
    else:
        assert problem.scores.sinks is not None
        assert_close("lse", out.lse, problem.scores.sinks[None, :, None].expand_as(out.lse))
        assert_close("sink mass", out.sink_mass, torch.ones_like(out.lse))


def test_cached_decoding_equals_the_whole() -> None:
    """Queries one at a time over growing keys give the rows of the whole call."""
    problem = make_problem(n_query=12, n_key=12, mask="sliding")
    want = Want(lse=True, entropy=True, distance=True, first=(1,), offsets=(1,))
    whole = attend(problem.scores, problem.layout, want)
    assert whole.z is not None
    for step in range(12):
        seen = problem.keys(slice(0, step + 1))
        scores = type(seen.scores)(
            problem.scores.query[:, :, step : step + 1], seen.scores.key, seen.scores.value, seen.scores.scale
        )
        layout = Layout(problem.layout.mask, torch.tensor([[step]]), torch.arange(step + 1)[None])
        one = attend(scores, layout, want)
        assert_close("z", one.z, whole.z[:, :, step : step + 1])
        for name in ("lse", "entropy", "distance"):
            assert_close(name, getattr(one, name), getattr(whole, name)[:, :, step : step + 1])
        assert_close("offset", one.offsets[1], whole.offsets[1][:, :, step : step + 1])


def test_cross_attention_needs_no_common_length() -> None:
    """More queries than keys, and no mask: each row sees every key."""
    problem = make_problem(mask="none", n_query=30, n_key=7)
    layout = Layout(Mask(), torch.arange(30)[None], torch.arange(7)[None])
    out = attend(problem.scores, layout, Want(visible=True, column=True))
    assert out.visible is not None
    assert (out.visible == 7).all()
    assert out.seen_by is not None
    assert (out.seen_by == 30).all()
