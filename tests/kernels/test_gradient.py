"""z is differentiable, with and without edits; statistics carry no gradient."""

from dataclasses import replace

import pytest
import torch
from attention_problems import Problem, make_problem
from probe_kernels import BlockEdit, Edits, Scores, Want, attend, sweep
from probe_kernels.reference import dense_scores, visible


def leaves(problem: Problem) -> Scores:
    """The scores with every tensor a leaf that wants a gradient."""
    one = problem.scores
    grown = {
        name: tensor.clone().requires_grad_()
        for name in ("query", "key", "value", "sinks", "bias")
        for tensor in (getattr(one, name),)
        if tensor is not None
    }
    return replace(one, **grown)


def dense_z(scores: Scores, problem: Problem) -> torch.Tensor:
    """Dense attention under autograd."""
    s = dense_scores(scores, problem.layout, visible(problem.layout, problem.scores))
    if scores.sinks is not None:
        sinks = scores.sinks.double()[None, :, None, None].expand(*s.shape[:3], 1)
        p = torch.softmax(torch.cat((s, sinks), dim=-1), dim=-1)[..., :-1]
    else:
        p = torch.softmax(s, dim=-1)
    assert scores.value is not None
    return p @ scores.value.double().repeat_interleave(2, dim=1)


@pytest.mark.parametrize(
    "kind",
    [
        {"mask": "causal"},
        {"mask": "none"},
        {"mask": "sliding"},
        {"sinks": 1},
        {"softcap": 2.0},
        {"bias": True},
    ],
    ids=str,
)
def test_gradients_equal_those_of_dense_attention(kind: dict) -> None:
    """q, k, v, sinks and bias receive the gradients of plain dense attention."""
    problem = make_problem(n_query=20, n_key=20, **kind)
    ours, theirs = leaves(problem), leaves(problem)
    out = attend(ours, problem.layout, Want(lse=True, entropy=True, column=True))
    assert out.z is not None
    assert out.entropy is not None
    assert not out.entropy.requires_grad
    out.z.square().sum().backward()
    dense_z(theirs, problem).square().sum().backward()
    for name in ("query", "key", "value", "sinks", "bias"):
        leaf = getattr(ours, name)
        if leaf is not None:
            torch.testing.assert_close(leaf.grad, getattr(theirs, name).grad, rtol=1e-4, atol=1e-5)


def test_statistics_are_the_same_with_gradients_on() -> None:
    """Turning autograd on changes no number."""
    problem = make_problem(n_query=40, n_key=40, mask="sliding")
    want = Want(lse=True, entropy=True, column=True)
    with torch.no_grad():
        plain = attend(problem.scores, problem.layout, want)
    grown = attend(leaves(problem), problem.layout, want)
    for name in ("z", "lse", "entropy", "column"):
        torch.testing.assert_close(getattr(grown, name).detach(), getattr(plain, name))


def test_gradients_flow_through_edits() -> None:
    """Scaling p by a learned gate: dL/dgate and dL/dq are those of gate·z."""
    problem = make_problem(n_query=20, n_key=20)
    ours = leaves(problem)
    gate = torch.tensor(0.7, requires_grad=True)
    out = attend(
        ours, problem.layout, Want(entropy=True), edits=Edits(probs=(BlockEdit(lambda p, _r, _k: gate * p),))
    )
    assert out.z is not None
    out.z.square().sum().backward()
    theirs, other = leaves(problem), torch.tensor(0.7, requires_grad=True)
    (other * dense_z(theirs, problem)).square().sum().backward()
    torch.testing.assert_close(gate.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.query.grad, theirs.query.grad, rtol=1e-4, atol=1e-5)


def edits_of(gates: torch.Tensor, touched: tuple[int, ...]) -> Edits:
    """Scores times a gate and some keys hidden, then probabilities times a gate, on heads in descending order."""
    heads = tuple(reversed(touched))

    def gated(block: torch.Tensor, _rows: slice, _keys: slice) -> torch.Tensor:
        shut = block == -torch.inf  # times a gate, its gradient would be NaN
        return torch.where(shut, block, block.masked_fill(shut, 0.0) * gates[list(heads), None, None])

    def hidden(block: torch.Tensor, _rows: slice, keys: slice) -> torch.Tensor:
        return block.masked_fill(torch.arange(keys.start, keys.stop) % 5 == 2, -torch.inf)

    return Edits((BlockEdit(gated, heads), BlockEdit(hidden, heads[:1])), (BlockEdit(gated, heads),))


def dense_edited_z(scores: Scores, problem: Problem, gates: torch.Tensor, touched: tuple[int, ...]):
    """The same in dense float64 attention, under autograd, head by head."""
    seen = visible(problem.layout, problem.scores)
    s = dense_scores(scores, problem.layout, seen)
    parts = []
    for head in range(s.shape[1]):
        own = s[:, head]
        if head in touched:
            own = torch.where(seen, own.masked_fill(~seen, 0.0) * gates[head], -torch.inf)
        if head == touched[-1]:
            own = own.masked_fill(torch.arange(s.shape[3]) % 5 == 2, -torch.inf)
        if scores.sinks is not None:
            own = torch.cat((own, scores.sinks[head].double().expand(*own.shape[:2], 1)), dim=-1)
        p = torch.softmax(own, dim=-1)[..., : s.shape[3]]
        parts.append(p * gates[head] if head in touched else p)
    assert scores.value is not None
    return torch.stack(parts, dim=1) @ scores.value.double().repeat_interleave(2, dim=1)


@pytest.mark.parametrize("touched", [(2,), (0, 3), (0, 1, 3), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize(
    "kind", [{}, {"mask": "sliding", "sinks": 1}, {"softcap": 2.0, "bias": True}], ids=str
)
def test_gradients_through_edits_equal_those_of_dense_attention(
    kind: dict, touched: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """q, k, v, sinks, bias and what the edits hold, for few heads and for all, over several chunks."""
    monkeypatch.setattr(sweep, "_BLOCK_NUMBERS", 4 * 300 * 64)
    problem = make_problem(n_query=300, n_key=300, dtype=torch.float64, **kind)
    ours, theirs = leaves(problem), leaves(problem)
    gate, other = (torch.tensor([0.7, 1.2, 0.9, 0.5]).double().requires_grad_() for _ in range(2))
    edits = edits_of(gate, touched)
    out = attend(ours, problem.layout, Want(entropy=True, column=True), edits=edits)
    assert out.z is not None
    assert out.entropy is not None
    assert out.column is not None
    assert not out.entropy.requires_grad
    assert not out.column.requires_grad
    out.z.square().sum().backward()
    dense = dense_edited_z(theirs, problem, other, touched)
    torch.testing.assert_close(out.z, dense, rtol=1e-9, atol=1e-9)
    dense.square().sum().backward()
    torch.testing.assert_close(gate.grad, other.grad, rtol=1e-8, atol=1e-8)
    for name in ("query", "key", "value", "sinks", "bias"):
        leaf = getattr(ours, name)
        if leaf is not None:
            torch.testing.assert_close(leaf.grad, getattr(theirs, name).grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("heads", [(1,), None], ids=str)
def test_a_gate_in_a_frozen_model_gets_its_gradient(heads: tuple[int, ...] | None) -> None:
    """Nothing but the edit wants a gradient; statistics are those without gradients, before and after backward."""
    problem = make_problem(n_query=300, n_key=300)
    gate = torch.tensor(0.7, requires_grad=True)
    edits = Edits(probs=(BlockEdit(lambda p, _r, _k: gate * p, heads),))
    want = Want(lse=True, entropy=True, column=True)
    out = attend(problem.scores, problem.layout, want, edits=edits)
    with torch.no_grad():
        plain = attend(problem.scores, problem.layout, want, edits=edits)
    assert out.z is not None
    out.z[:, 1].sum().backward()
    torch.testing.assert_close(gate.grad, out.z[:, 1].detach().sum() / 0.7, rtol=1e-4, atol=1e-4)
    for name in ("z", "lse", "entropy", "column"):  # blocks were formed again, but not counted again
        assert torch.equal(getattr(out, name).detach(), getattr(plain, name))
