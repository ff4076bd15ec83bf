"""z is differentiable, with and without edits; statistics carry no gradient."""

from dataclasses import replace

import pytest
import torch
from attention_problems import Problem, make_problem
from probe_kernels import BlockEdit, Edits, Scores, Want, attend
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
