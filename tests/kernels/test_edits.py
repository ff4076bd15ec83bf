"""Edits of blocks inside the sweep against their closed forms on span-partitioned outputs."""

import pytest
import torch
from attention_problems import make_problem, want_all
from probe_kernels import BlockEdit, Edits, Want, attend
from probe_kernels.reference import dense_scores, visible
from probe_kernels.testing import assert_attended_close, assert_close
from torch import Tensor

SPAN = slice(3, 8)


def knockout(s: Tensor, _rows: slice, keys: slice) -> Tensor:
    """-inf on the span's keys."""
    s = s.clone()
    s[..., max(SPAN.start - keys.start, 0) : max(SPAN.stop - keys.start, 0)] = -torch.inf
    return s


def drop(p: Tensor, _rows: slice, keys: slice) -> Tensor:
    """The span's probabilities to zero, without renormalising."""
    p = p.clone()
    p[..., max(SPAN.start - keys.start, 0) : max(SPAN.stop - keys.start, 0)] = 0.0
    return p


def split(mask: str = "causal", **more: int) -> tuple:
    """A problem, and its z, z_g and m_g for the span."""
    problem = make_problem(n_query=20, n_key=20, mask=mask, dtype=torch.float64, **more)
    groups = torch.full((1, 20), -1)
    groups[:, SPAN] = 0
    want = Want(key_groups={"g": groups}, parts=frozenset({"g"}))
    out = attend(problem.scores, problem.layout, want)
    assert out.z is not None
    return problem, out.z, out.parts["g"][..., 0, :], out.key_groups["g"][..., 0]


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("mask", ["causal", "sliding", "prefix"])
def test_knockout_is_the_rest_renormalised(mask: str, backend: str) -> None:
    """-inf on a span: z = (z - z_g) / (1 - m_g) wherever something is left."""
    problem, z, z_g, m_g = split(mask)
    out = attend(
        problem.scores, problem.layout, Want(), edits=Edits(scores=(BlockEdit(knockout),)), backend=backend
    )
    left = m_g < 0.99
    expected = (z - z_g) / (1 - m_g.double())[..., None]
    assert out.z is not None
    torch.testing.assert_close(out.z[left], expected[left], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_drop_takes_the_part_away(backend: str) -> None:
    """p = 0 on a span without renormalising: z - z_g."""
    problem, z, z_g, _ = split()
    out = attend(
        problem.scores, problem.layout, Want(), edits=Edits(probs=(BlockEdit(drop),)), backend=backend
    )
    torch.testing.assert_close(out.z, z - z_g, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_scaling_probabilities_scales_z_and_every_mass(backend: str) -> None:
    """alpha·p gives alpha·z, alpha·column, alpha²·Σp²; lse is that of the scores."""
    problem = make_problem(n_query=20, n_key=20)
    want = Want(lse=True, column=True, square=True, distance=True, first=(1,))
    plain = attend(problem.scores, problem.layout, want)
    out = attend(
        problem.scores,
        problem.layout,
        want,
        edits=Edits(probs=(BlockEdit(lambda p, _r, _k: 2.5 * p),)),
        backend=backend,
    )
    for name, factor in (("z", 2.5), ("column", 2.5), ("distance", 2.5), ("square", 6.25), ("lse", 1.0)):
        assert_close(name, getattr(out, name), factor * getattr(plain, name))


def test_scores_to_zero_make_attention_uniform_and_hidden_keys_stay_hidden() -> None:
    """0·s is uniform over the visible keys even though hidden ones hold -inf."""
    problem = make_problem(n_query=20, n_key=20, mask="sliding")
    want = Want(entropy=True, visible=True)
    out = attend(
        problem.scores, problem.layout, want, edits=Edits(scores=(BlockEdit(lambda s, _r, _k: s * 0),))
    )
    assert out.visible is not None
    assert_close("entropy", out.entropy, out.visible[:, None].expand(1, 4, 20).double().log())


def test_edits_see_whole_rows_and_minus_infinity() -> None:
    """Score edits meet every visible key of their rows, -inf on hidden ones; the slices say where."""
    problem = make_problem(n_query=20, n_key=20, mask="causal", batch=2)
    met = torch.zeros(20, 20, dtype=torch.bool)

    def look(s: Tensor, rows: slice, keys: slice) -> Tensor:
        met[rows, keys] = s[0, 0] > -torch.inf
        assert s.shape == (2, 4, rows.stop - rows.start, keys.stop - keys.start)
        return s

    attend(problem.scores, problem.layout, Want(), edits=Edits(scores=(BlockEdit(look),)))
    assert torch.equal(met, torch.ones(20, 20).tril().bool())


@pytest.mark.parametrize("mask", ["none", "causal", "sliding", "packed", "rule"])
@pytest.mark.parametrize("sinks", [0, 1])
def test_every_statistic_comes_from_the_edited_attention(mask: str, sinks: int) -> None:
    """Both backends agree on all statistics of a selected head's edit."""

    def some_heads(p: Tensor, _rows: slice, _keys: slice) -> Tensor:
        return torch.cat((p[:, :1] * 0.5, p[:, 1:2].sqrt(), p[:, 2:]), dim=1)

    problem = make_problem(n_query=40, n_key=44, mask=mask, sinks=sinks)
    want = Want(**{**vars(want_all(problem)), "table": 0})
    edits = Edits(
        scores=(BlockEdit(lambda s, _r, _k: 1.5 * s), BlockEdit(knockout)), probs=(BlockEdit(some_heads),)
    )
    found = attend(problem.scores, problem.layout, want, edits=edits)
    wanted = attend(problem.scores, problem.layout, want, edits=edits, backend="reference")
    assert_attended_close(found, wanted, tolerance=5e-5)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("sinks", [1, 2])
def test_the_sink_follows_the_edits_of_probabilities(sinks: int, backend: str) -> None:
    """Handing part of the sink's mass to the keys: sink mass, z, columns and entropy are those of the new outcome."""
    problem = make_problem(sinks=sinks, dtype=torch.float64)
    want = Want(lse=True, entropy=True, column=True, rows={"p": lambda p, _r, _k: p})
    plain = attend(problem.scores, problem.layout, want, backend="reference")
    assert plain.sink_mass is not None
    # Half of head 1's sink goes to its keys in proportion; head 3's sink is taken away, and nothing put in its place.
    mass = plain.sink_mass.double()
    kept = torch.tensor([1.0, 0.5, 1.0, 0.0])[None, :, None] * mass
    factor = torch.ones_like(mass)
    factor[:, 1] = (1 - kept[:, 1]) / (1 - mass[:, 1])
    hand = BlockEdit(
        lambda p, rows, _k: p * factor[:, [1], rows, None], (1,), sinks=lambda mass, _rows: 0.5 * mass
    )
    take = BlockEdit(lambda p, _r, _k: p, (3,), sinks=lambda mass, _rows: 0 * mass)
    out = attend(problem.scores, problem.layout, want, edits=Edits(probs=(hand, take)), backend=backend)
    p = plain.rows["p"].double() * factor[..., None]
    assert_close("sink_mass", out.sink_mass, kept)
    assert_close("column", out.column, p.sum(2))
    assert_close("lse", out.lse, plain.lse)
    value = problem.scores.value
    assert value is not None
    assert_close("z", out.z, p @ value.repeat_interleave(2, dim=1))
    assert_close("entropy", out.entropy, torch.special.entr(p).sum(-1) + torch.special.entr(kept))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_edits_apply_in_order_scores_before_probabilities(backend: str) -> None:
    """Doubling then lifting is not lifting then doubling; squares of halves are not halves of squares."""
    problem = make_problem(dtype=torch.float64, mask="sliding")
    seen = visible(problem.layout, problem.scores)[:, None]
    s = dense_scores(problem.scores, problem.layout, seen[:, 0])
    early = torch.arange(20) < 8

    def double(block: Tensor, _rows: slice, _keys: slice) -> Tensor:
        return 2 * block

    def lift(block: Tensor, _rows: slice, keys: slice) -> Tensor:
        assert not block.isnan().any()
        return (block + early[keys]).clamp_min(-3.0)  # puts a number on hidden keys, too

    def half(p: Tensor, _rows: slice, _keys: slice) -> Tensor:
        return p / 2

    def square(p: Tensor, _rows: slice, _keys: slice) -> Tensor:
        return p.square()

    want = Want(z=False, rows={"p": lambda p, _r, _k: p})
    found = []
    for first, second in ((double, lift), (lift, double)):
        edited = s
        for step in (first, second):
            edited = step(edited, slice(0, 20), slice(0, 20)).masked_fill(~seen, -torch.inf)
        for third, fourth, factor in ((half, square, 0.25), (square, half, 0.5)):
            edits = Edits(
                (BlockEdit(first), BlockEdit(second)), (BlockEdit(third, (0, 2)), BlockEdit(fourth, (2, 0)))
            )
            out = attend(problem.scores, problem.layout, want, edits=edits, backend=backend)
            expected = torch.softmax(edited, dim=-1)
            expected[:, [0, 2]] = factor * expected[:, [0, 2]].square()
            assert_close("p", out.rows["p"], expected)
            found.append(out.rows["p"])
    assert not torch.allclose(found[0], found[2])


def test_the_table_cannot_follow_edited_probabilities() -> None:
    """Asking for both says so."""
    problem = make_problem()
    with pytest.raises(ValueError, match="table"):
        attend(problem.scores, problem.layout, Want(table=4), edits=Edits(probs=(BlockEdit(drop),)))


def test_what_an_edit_may_not_do_is_refused() -> None:
    """A block of another shape, and sinks in an edit of scores, are named."""
    problem = make_problem()
    with pytest.raises(ValueError, match="returned"):
        attend(
            problem.scores,
            problem.layout,
            Want(),
            edits=Edits(probs=(BlockEdit(lambda p, _r, _k: p[:, :1]),)),
        )
    with pytest.raises(ValueError, match="sinks"):
        Edits(scores=(BlockEdit(knockout, sinks=lambda mass, _rows: mass),))
