"""Windows, sinks and powers of two: each keeps exactly what its formula says, wherever the tokens lie."""

from dataclasses import replace

import pytest
import torch
from attention_problems import make_problem, tolerance, want_all
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels import Layout, Mask, Scores, Want, attend
from probe_kernels.mask import causal, first
from probe_kernels.select import (
    Pattern,
    Selection,
    Site,
    full,
    make,
    power_of_two,
    sink_recent,
    skipping,
    sliding,
)
from probe_kernels.testing import assert_attended_close
from selecting import make_call, padded
from torch import Tensor

QUICK = settings(max_examples=30, deadline=None)


def kept(pattern: Pattern, n: int, *, both: bool = False) -> Tensor:
    """Bool ``[n, n]``: what a pattern leaves of n tokens under the model's own mask."""
    return make_call(n, group=1, mask=() if both else None).kept(pattern)[0, 0]


def pairs(n: int) -> tuple[Tensor, Tensor]:
    """Query and key positions, to be broadcast."""
    return torch.arange(n)[:, None], torch.arange(n)[None]


@QUICK
@given(st.integers(1, 40), st.integers(1, 60), st.booleans())
def test_sliding_keeps_a_window(n: int, window: int, both: bool) -> None:
    """|i - j| < window under the model's mask; a longer one is the whole sequence."""
    i, j = pairs(n)
    wanted = ((i - j).abs() < window) & (both | (j <= i))
    assert torch.equal(kept(sliding(window), n, both=both), wanted)


@QUICK
@given(st.integers(1, 40), st.integers(0, 8), st.integers(1, 12), st.integers(0, 5))
def test_sink_recent_keeps_both_ends(n: int, sinks: int, recent: int, middle: int) -> None:
    """j < sinks, or i - j < recent, or j a multiple of middle."""
    i, j = pairs(n)
    wanted = (j < sinks) | (i - j < recent)
    if middle:
        wanted = wanted | (j % middle == 0)
    assert torch.equal(kept(sink_recent(sinks, recent, middle), n), wanted & (j <= i))


@QUICK
@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_power_of_two_keeps_blocks_at_such_distances(
    n: int, block: int, local: int, keep_first: bool
) -> None:
    """Counted bit by bit: the distance in blocks has at most one binary one, or is below `local`."""
    wanted = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i + 1):
            far = i // block - j // block
            wanted[i, j] = far < local or bin(far).count("1") == 1 or (keep_first and j < block)
    assert torch.equal(kept(power_of_two(block, local, keep_first), n), wanted)


SPECS = ("full", "sliding:window=6", "sink_recent:sinks=2,recent=5,middle=7", "power_of_two:block=4,local=1",
         "segment_graph:edges=0..9>20..31+20..31", "neighborhood:shape=6+8,window=3")  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_padding_on_the_left_moves_nothing(spec: str) -> None:
    """Positions number real tokens."""
    call = make_call(48, group=1)
    pattern = make(spec)
    wanted = call.kept(pattern)
    found = padded(call, 5, 3).kept(pattern)
    assert torch.equal(found[:, :, 5:53, 5:53], wanted)


@pytest.mark.parametrize("spec", SPECS)
def test_the_diagonal_is_kept(spec: str) -> None:
    """Whatever else is not, so that no row is empty."""
    assert make_call(48, group=1).kept(make(spec)).diagonal(dim1=-2, dim2=-1).all()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rows", [5, 16])
def test_what_is_skipped_changes_nothing(spec: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern with its lists of keys answers as its mask alone does in the float64 reference."""
    monkeypatch.setattr(skipping, "_LARGE", 1)
    monkeypatch.setattr(skipping, "_PAYS", 1.0)
    problem = make_problem(batch=2, n_query=48, n_key=48)
    selection = make(spec).select(problem.scores, problem.layout, Site())
    if selection.mask is None:
        return
    alone = Selection(selection.mask)
    listed = skipping.visits(alone, problem.layout, rows)
    want = want_all(problem)
    exact = attend(problem.scores, alone.narrowed(problem.layout), want, backend="reference")
    found = attend(problem.scores, listed.narrowed(problem.layout), want, visit=listed.visit)
    assert_attended_close(found, exact, tolerance=tolerance(problem))


def test_keys_that_lie_apart_are_listed_and_a_window_is_not() -> None:
    """The sweep skips a window by itself; sinks and a window, or powers of two, become lists of few keys."""
    call = make_call(2048, group=1)
    assert call.select(sliding(64)).visit is None
    for pattern, most in ((sink_recent(4, 64), 4 + 64 + 128), (power_of_two(64, 1), 2048 // 2)):
        visit = call.select(pattern).visit
        assert visit is not None
        assert visit.index.shape[3] <= most
    assert make_call(64, group=1).select(sink_recent(4, 8)).visit is None


def test_density_is_what_is_counted() -> None:
    """Kept pairs over visible pairs of real queries, with and without lists."""
    call = padded(make_call(700, group=2), 9, 0)
    for pattern in (sink_recent(4, 30), power_of_two(8, 2), full()):
        selection = call.select(pattern)
        seen = call.kept(full())[:, :, 9:]
        wanted = call.kept(pattern)[:, :, 9:].sum((2, 3)) / seen.sum((2, 3))
        assert torch.allclose(selection.density(call.scores, call.layout), wanted.double())


@pytest.mark.parametrize(
    ("make_one", "match"),
    [
        (lambda: sliding(0), "window=0"),
        (lambda: sliding(2.5), "window=2.5"),
        (lambda: sink_recent(-1), "sinks=-1"),
        (lambda: sink_recent(4, 0), "recent=0"),
        (lambda: sink_recent(4, 8, -2), "middle=-2"),
        (lambda: power_of_two(0), "block=0"),
        (lambda: power_of_two(4, 0), "local=0"),
        (lambda: make("sliding"), "window"),
        (lambda: make("sliding:width=3"), "width"),
        (lambda: make("slidin:window=3"), "sink_recent"),
    ],
)
def test_numbers_out_of_range_are_refused(make_one, match: str) -> None:
    """By the pattern's name and the number."""
    with pytest.raises(ValueError, match=match):
        make_one()


@pytest.mark.parametrize("spec", SPECS)
def test_the_name_makes_the_pattern_again(spec: str) -> None:
    """And it does not look at scores."""
    pattern = make(spec)
    assert isinstance(pattern, Pattern)
    assert make(pattern.name) == pattern
    assert not pattern.learned


def test_two_masks_of_alternatives_are_refused() -> None:
    """A mask has one list of rules of which one must hold."""
    call = make_call(8, group=1)
    prefix = replace(call.layout, mask=Mask((), (causal(), first(2))))
    with pytest.raises(ValueError, match="any_of"):
        sink_recent(1, 2).select(call.scores, prefix, Site()).narrowed(prefix)


def test_queries_without_keys_before_them_keep_what_there_is() -> None:
    """Fewer keys than queries, and rows that the model's mask leaves empty: z = 0, lse = -inf, nothing else moves."""
    q, k = torch.ones(1, 1, 6, 4), torch.ones(1, 1, 2, 4)
    layout = Layout(Mask((causal(),)), torch.arange(6)[None], torch.tensor([[2, 3]]))
    scores = Scores(q, k, k, scale=1.0)
    out = attend(
        scores, sliding(2).select(scores, layout, Site()).narrowed(layout), Want(lse=True, visible=True)
    )
    assert out.visible is not None
    assert out.visible[0].tolist() == [0, 0, 1, 2, 1, 0]
    assert out.lse is not None
    assert (out.lse[0, 0, [0, 1, 5]] == -torch.inf).all()
