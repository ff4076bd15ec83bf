"""Edits of some heads: those heads as the dense float64 computation has them, the others as if nobody had edited."""

from unittest.mock import patch

import pytest
import torch
from attention_problems import Problem, make_problem, problems, tolerance, want_all
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from probe_kernels import Attended, BlockEdit, Edits, Want, attend, pattern_block, sweep
from probe_kernels.testing import assert_attended_close, assert_close
from torch import Tensor

LAWFUL = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HEADLESS = {"visible", "seen_by", "band_seen_by"}


def factors(heads: tuple[int, ...]) -> Tensor:
    """One factor for each head that an edit is given, ``[len(heads), 1, 1]``: a wrong head gets a wrong factor."""
    return torch.tensor([0.6 + 0.3 * head for head in heads])[:, None, None]


def score_edit(kind: str, heads: tuple[int, ...]) -> BlockEdit:
    """An edit of scores that treats each of its heads differently, or hides every third key."""

    def apply(s: Tensor, _rows: slice, keys: slice) -> Tensor:
        if kind == "scale":
            return s * factors(heads)
        third = torch.arange(keys.start, keys.stop) % 3 == 1
        return s.masked_fill(third, -torch.inf)

    return BlockEdit(apply, heads)


def probs_edit(kind: str, heads: tuple[int, ...]) -> BlockEdit:
    """An edit of probabilities, of the sinks' mass as well where it is `sinks`."""

    def apply(p: Tensor, _rows: slice, _keys: slice) -> Tensor:
        return p.sqrt() if kind == "sqrt" else p * factors(heads)

    def of_sinks(mass: Tensor, rows: slice) -> Tensor:
        assert mass.shape[2] == rows.stop - rows.start
        return 0.5 * mass * factors(heads)[..., 0]

    return BlockEdit(apply, heads, of_sinks if kind == "sinks" else None)


@st.composite
def edited_problems(draw: st.DrawFn) -> tuple[Problem, Edits]:
    """Any problem, and up to two edits of scores and two of probabilities on any heads in any order."""
    problem = draw(problems())
    heads = st.lists(st.integers(0, problem.scores.query.shape[1] - 1), unique=True, max_size=3).map(tuple)
    of_scores = st.builds(score_edit, st.sampled_from(("scale", "hide")), heads)
    of_probs = st.builds(probs_edit, st.sampled_from(("scale", "sqrt", "sinks")), heads)
    return problem, Edits(
        tuple(draw(st.lists(of_scores, max_size=2))), tuple(draw(st.lists(of_probs, max_size=2)))
    )


def wanted_of(problem: Problem, edits: Edits) -> Want:
    """Everything that can be had together with these edits."""
    want = want_all(problem)
    return Want(**{**vars(want), "table": 0}) if edits.probs else want


def others(out: Attended, heads: tuple[int, ...], n_heads: int) -> dict[str, Tensor]:
    """Every answer about heads that are not in `heads`, and those that are the same for all."""
    kept = [head for head in range(n_heads) if head not in heads]
    found = {}
    for name, one in vars(out).items():
        for key, tensor in one.items() if isinstance(one, dict) else [("", one)]:
            if isinstance(tensor, Tensor):
                found[f"{name}{key}"] = tensor if name in HEADLESS else tensor[:, kept]
    return found


@LAWFUL
@given(edited_problems(), st.sampled_from((0, 2**16)))
def test_edits_of_some_heads_equal_dense_attention(both: tuple[Problem, Edits], worth: int) -> None:
    """Whatever is edited, swept apart or with the others, every statistic is that of the dense edited pattern."""
    problem, edits = both
    want = wanted_of(problem, edits)
    with patch.object(sweep, "_WORTH", worth):
        found = attend(problem.scores, problem.layout, want, edits=edits)
    wanted = attend(problem.scores, problem.layout, want, edits=edits, backend="reference")
    assert_attended_close(found, wanted, tolerance=8 * tolerance(problem))


@LAWFUL
@given(edited_problems(), st.sampled_from((0, 2**16)))
def test_heads_that_no_edit_names_keep_every_bit(both: tuple[Problem, Edits], worth: int) -> None:
    """Answers about the other heads are those of the run without edits, not just close to them."""
    problem, edits = both
    n_heads = problem.scores.query.shape[1]
    touched = edits.heads(n_heads)
    assume(2 * len(touched) <= n_heads)
    want = wanted_of(problem, edits)
    with patch.object(sweep, "_WORTH", worth):
        plain = others(attend(problem.scores, problem.layout, want), touched, n_heads)
        edited = others(attend(problem.scores, problem.layout, want, edits=edits), touched, n_heads)
    assert edited.keys() == plain.keys()
    assert all(torch.equal(edited[name], plain[name]) for name in plain)


@pytest.mark.parametrize("heads", [(2,), (5, 0), (0, 1, 2, 3, 4)], ids=str)
def test_several_chunks_and_lanes(heads: tuple[int, ...]) -> None:
    """A call that lanes serve: edited heads equal the reference, few of them or most."""
    problem = make_problem(batch=2, kv_heads=2, group=3, n_query=300, n_key=310, mask="sliding", sinks=1)
    edits = Edits((score_edit("scale", heads),), (probs_edit("sinks", heads[:1]),))
    want = wanted_of(problem, edits)
    found = attend(problem.scores, problem.layout, want, edits=edits)
    wanted = attend(problem.scores, problem.layout, want, edits=edits, backend="reference")
    assert_attended_close(found, wanted, tolerance=4 * tolerance(problem))


def test_few_heads_are_swept_apart_and_edits_see_only_them() -> None:
    """The edit of one head of a large call is given blocks of one head, in a call that others leave to lanes."""
    problem = make_problem(n_query=300, n_key=300)
    met = []

    def look(s: Tensor, _rows: slice, _keys: slice) -> Tensor:
        met.append(s.shape[1])
        return s

    with patch.object(sweep, "_in_lanes", wraps=sweep._in_lanes) as quick:
        attend(problem.scores, problem.layout, Want(), edits=Edits((BlockEdit(look, (3,)),)))
    assert quick.call_count == 1
    assert set(met) == {1}


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_rows_see_every_head_in_order(backend: str) -> None:
    """Whoever wants rows is given whole blocks in which only the edited head differs."""
    problem = make_problem(n_query=300, n_key=300)
    want = Want(z=False, rows={"p": lambda p, _r, _k: p.sum(-1)})
    edits = Edits(probs=(BlockEdit(lambda p, _r, _k: p * 0.25, (2,)),))
    out = attend(problem.scores, problem.layout, want, edits=edits, backend=backend).rows["p"]
    assert_close("rows", out, torch.tensor([1.0, 1.0, 0.25, 1.0])[None, :, None].expand_as(out))


def test_raw_rows_follow_edits_of_any_heads() -> None:
    """Rows of chosen heads, in any order, are cut from the edited pattern, also where edits name other heads."""
    problem = make_problem(kv_heads=2, group=3, sinks=1)
    every = BlockEdit(lambda s, _r, _k: s * factors(tuple(range(6))))
    edits = Edits((score_edit("hide", (4, 0)), every), (probs_edit("sqrt", (1,)),))
    want = Want(z=False, rows={"p": lambda p, _r, _k: p})
    dense = attend(problem.scores, problem.layout, want, edits=edits, backend="reference").rows["p"]
    for chosen in ([4, 1, 4], [3, -2], [5]):
        for one in (edits, Edits(edits.scores[:1], edits.probs)):
            expected = dense
            if one is not edits:
                out = attend(problem.scores, problem.layout, want, edits=one, backend="reference")
                expected = out.rows["p"]
            got = pattern_block(
                problem.scores, problem.layout, slice(0, 20), slice(0, 20), heads=chosen, edits=one
            )
            assert_close("rows", got, expected[:, chosen])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_heads_that_do_not_exist_are_refused(backend: str) -> None:
    """An edit of head 4 of 4 heads names the head and the number of heads."""
    problem = make_problem()
    with pytest.raises(ValueError, match=r"\[4\].* 4 query heads"):
        attend(
            problem.scores, problem.layout, Want(), edits=Edits((score_edit("hide", (4,)),)), backend=backend
        )
    with pytest.raises(ValueError, match="once"):
        score_edit("hide", (1, 1))
    with pytest.raises(ValueError, match="once"):
        score_edit("hide", (-1,))
