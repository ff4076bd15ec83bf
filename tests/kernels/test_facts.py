"""What was found of a layout is kept with it, and serves every later call alike."""

import gc
import weakref

import pytest
import torch
from attention_problems import MASKS, make_problem, want_all
from probe_kernels import Layout, Scores, Want, attend
from probe_kernels.chunks import Ground
from probe_kernels.testing import assert_attended_close, assert_close


def fresh(layout: Layout) -> Layout:
    """The same layout, of which nothing is known yet."""
    return Layout(**{name: getattr(layout, name) for name in Layout.__dataclass_fields__})


@pytest.mark.parametrize("n_query", [1, 40])
@pytest.mark.parametrize("mask", MASKS)
def test_a_layout_that_served_before_gives_the_same_answers(mask: str, n_query: int) -> None:
    """Other scores, wants and dtypes in between leave no trace."""
    problem = make_problem(batch=2, n_query=n_query, n_key=40, mask=mask, padding=True, alibi=True)
    want = want_all(problem)
    first = attend(problem.scores, fresh(problem.layout), want)
    double = {name: getattr(problem.scores, name).double() for name in ("query", "key", "value", "alibi")}
    attend(Scores(**double, scale=1.0), problem.layout, want)
    with torch.inference_mode():
        attend(problem.scores, problem.layout, Want(entropy=True))
    assert_attended_close(attend(problem.scores, problem.layout, want), first, tolerance=0.0)


def test_a_layout_first_used_in_inference_mode_serves_autograd() -> None:
    """Tensors made in inference mode are not handed to autograd later."""
    problem = make_problem(n_query=3, n_key=9, mask="sliding")
    with torch.inference_mode():
        plain = attend(problem.scores, problem.layout, Want()).z
    query = problem.scores.query.clone().requires_grad_()
    scores = Scores(query, problem.scores.key, problem.scores.value, scale=problem.scores.scale)
    z = attend(scores, problem.layout, Want()).z
    assert z is not None
    z.sum().backward()
    assert query.grad is not None
    assert plain is not None
    assert_close("z", z, plain)


def test_only_small_calls_keep_their_chunk() -> None:
    """A decoding step's chunk is shared by the layers; the chunks of a long prompt are not kept."""
    small = make_problem(n_query=1, n_key=30).layout
    assert Ground(small, 1, 30).chunk(slice(0, 1)) is Ground(small, 1, 30).chunk(slice(0, 1))
    long = make_problem(n_query=600, n_key=600).layout
    assert Ground(long, 600, 600).chunk(slice(0, 600)) is not Ground(long, 600, 600).chunk(slice(0, 600))


def test_a_layout_is_freed_with_what_is_known_of_it() -> None:
    """The facts do not refer back to the layout, so that large masks are freed at once."""
    problem = make_problem(n_query=40, n_key=40)
    layout = fresh(problem.layout)
    attend(problem.scores, layout, Want(entropy=True, distance=True))
    watch = weakref.ref(layout)
    gc.disable()
    try:
        del layout
        assert watch() is None
    finally:
        gc.enable()
