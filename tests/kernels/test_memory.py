"""The blocked path never makes a tensor of the order of n×n, masks included."""

import pytest
import torch
from attention_problems import make_problem, want_all
from probe_kernels import BlockEdit, Edits, Want, attend, lanes, pattern_block, sweep
from probe_kernels.types import Scores
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

N = 2048


@pytest.fixture(autouse=True)
def _no_scratch_of_earlier_calls() -> None:
    """What a thread keeps between calls is of constant size, but may come from a larger call than these."""
    lanes.release()


class Largest(TorchDispatchMode):
    """Remembers the most numbers in any tensor that an operation returns (views of storage count in full)."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.name = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                held = one.untyped_storage().nbytes() // one.element_size()
                if held > self.numbers:
                    self.numbers, self.name = held, str(func)
        return out


@pytest.mark.parametrize("mask", ["none", "causal", "sliding", "packed", "rule"])
@pytest.mark.parametrize("n_lanes", [0, 1])
def test_no_tensor_reaches_a_quarter_of_n_squared(mask: str, n_lanes: int) -> None:
    """With every statistic wanted, at n = 2048."""
    problem = make_problem(
        kv_heads=1, group=1, n_query=N, n_key=N, mask=mask, width=4, value_width=4, padding=True
    )
    with Largest() as largest:
        sweep.attend(problem.scores, problem.layout, want_all(problem), n_lanes=n_lanes)
    assert largest.numbers < N * N / 4, largest.name


def test_edits_and_gradients_keep_to_blocks_too() -> None:
    """Edited attention, and z with gradients under a window, allocate blocks only."""
    problem = make_problem(kv_heads=1, group=1, n_query=N, n_key=N, mask="sliding", width=4, value_width=4)
    one = problem.scores
    query = one.query.clone().requires_grad_()
    with Largest() as largest:
        attend(one, problem.layout, Want(), edits=Edits(probs=(BlockEdit(lambda p, _r, _k: p * 2),)))
        z = attend(Scores(query, one.key, one.value, one.scale), problem.layout, Want(entropy=True)).z
        assert z is not None
        z.sum().backward()
    assert largest.numbers < N * N / 4, largest.name
    assert query.grad is not None


@pytest.mark.parametrize("mask", ["causal", "packed"])
@pytest.mark.parametrize("edited", [True, False])
def test_what_waits_for_the_backward_pass_is_linear(mask: str, edited: bool) -> None:
    """Twice the tokens keep twice the bytes between forward and backward, not four times: no block, no mask."""
    gate = torch.tensor(0.7, requires_grad=True)
    edits = Edits(probs=(BlockEdit(lambda p, _r, _k: gate * p, (1,)),)) if edited else None
    kept = []
    for n in (N // 2, N):
        problem = make_problem(kv_heads=1, n_query=n, n_key=n, mask=mask, width=4, value_width=4)
        one = problem.scores
        scores = Scores(one.query.requires_grad_(), one.key, one.value, one.scale)
        attend(
            scores, problem.layout, Want(entropy=True), edits=edits
        )  # finds the layout's facts, which stay
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            z = attend(scores, problem.layout, Want(entropy=True), edits=edits).z
        assert z is not None
        kept.append(sum(event.self_cpu_memory_usage for event in seen.events()))
        z.sum().backward()
        del z
    assert 0 < kept[1] < 2.2 * kept[0]


def test_edits_of_few_heads_keep_to_blocks() -> None:
    """A head swept apart, with gradients, allocates blocks only."""
    problem = make_problem(kv_heads=1, n_query=N, n_key=N, width=4, value_width=4)
    gate = torch.tensor(0.7, requires_grad=True)
    edits = Edits(
        (BlockEdit(lambda s, _r, _k: s * gate, (0,)),), (BlockEdit(lambda p, _r, _k: gate * p, (0,)),)
    )
    with Largest() as largest:
        z = attend(
            problem.scores, problem.layout, Want(**{**vars(want_all(problem)), "table": 0}), edits=edits
        ).z
        assert z is not None
        z.sum().backward()
    assert largest.numbers < 2 * N * N / 4, largest.name
    assert gate.grad is not None


def test_rows_and_tiles_cost_what_they_hold() -> None:
    """A few raw rows, and a tile with known lse, allocate no more than a block."""
    problem = make_problem(kv_heads=1, group=1, n_query=N, n_key=N, width=4, value_width=4)
    lse = attend(problem.scores, problem.layout, Want(z=False, lse=True)).lse
    with Largest() as largest:
        pattern_block(problem.scores, problem.layout, torch.tensor([5, 900]), slice(0, N))
        pattern_block(problem.scores, problem.layout, slice(100, 200), slice(0, 64), lse=lse)
    assert largest.numbers < 100 * N, largest.name


def test_keys_out_of_reach_are_never_touched() -> None:
    """A window skips whole ranges of keys: no block is wider than the window and its chunk."""
    problem = make_problem(kv_heads=1, group=1, n_query=N, n_key=N, mask="sliding", width=4, value_width=4)
    widths: list[int] = []
    want = Want(z=False, lse=True, rows={"w": lambda p, _r, _k: (widths.append(p.shape[-1]), p.sum(-1))[1]})
    attend(problem.scores, problem.layout, want)
    assert max(widths) <= 256 + 5
