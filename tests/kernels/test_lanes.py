"""Lanes: threads that work apart, report errors, and leave torch's settings as they were."""

import threading

import pytest
import torch
from attention_problems import make_problem, want_all
from probe_kernels import lanes, sweep
from probe_kernels.testing import assert_attended_close, assert_close


def test_lanes_leave_the_number_of_threads_alone() -> None:
    """Neither this thread nor new ones are changed by single-threaded lanes."""
    before = torch.get_num_threads()
    lanes.run([lambda: None] * 3)
    assert torch.get_num_threads() == before
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [before]


def test_errors_in_a_lane_reach_the_caller() -> None:
    """The first error is raised after all lanes are done."""

    def fail() -> None:
        raise LookupError("lane")

    with pytest.raises(LookupError, match="lane"):
        lanes.run([lambda: None, fail])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_lanes_work_where_gradients_are_off(mode: type) -> None:
    """Under no_grad and in inference mode, with tensors made inside."""
    with mode():
        problem = make_problem(n_query=70, n_key=70)
        want = want_all(problem)
        found = sweep.attend(problem.scores, problem.layout, want, n_lanes=2)
        plain = sweep.attend(problem.scores, problem.layout, want, n_lanes=0)
        assert_attended_close(found, plain)


def test_two_callers_do_not_disturb_each_other() -> None:
    """Concurrent calls share the lanes and get their own answers."""
    problems = [make_problem(n_query=90, n_key=90, seed=seed) for seed in range(4)]
    answers: dict[int, torch.Tensor | None] = {}

    def work(i: int) -> None:
        answers[i] = sweep.attend(
            problems[i].scores, problems[i].layout, want_all(problems[i]), n_lanes=2
        ).column

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, problem in enumerate(problems):
        alone = sweep.attend(problem.scores, problem.layout, want_all(problem), n_lanes=2).column
        assert_close("column", answers[i], alone, tolerance=0.0)
