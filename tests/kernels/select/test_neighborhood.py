"""Neighbourhoods on grids are NATTEN's: shifted at borders, dilated, strided, causal by axis."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels.select import make, neighborhood
from selecting import make_call


def axis_keys(i: int, length: int, window: int, dilation: int, stride: int, causal: bool) -> set[int]:
    """The keys of one coordinate, found by sliding a window over the list of the query's dilation group."""
    group = [x for x in range(length) if x % dilation == i % dilation]
    at = group.index(i)
    window = min(window, len(group))
    leader = at - at % stride
    if causal:
        leader = min(leader + stride - 1, len(group) - 1)
        return {x for y, x in enumerate(group) if y <= at and leader - y < window}
    centre = min(leader + stride // 2, len(group) - 1)
    # Every place where the whole window fits on the axis; the one whose centre is nearest is the query's.
    starts = range(len(group) - window + 1)
    best = min(starts, key=lambda start: abs(start + window // 2 - centre))
    return set(group[best : best + window])


@st.composite
def grids(draw: st.DrawFn) -> tuple[list[int], list[dict[str, int]]]:
    """One to three axes with windows, dilations and strides of their own."""
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    axes = []
    for _ in shape:
        window = draw(st.integers(1, 9))
        axes.append(
            {
                "window": window,
                "dilation": draw(st.integers(1, 3)),
                "stride": draw(st.integers(1, window)),
                "causal": draw(st.booleans()),
            }
        )
    return shape, axes


@settings(max_examples=60, deadline=None)
@given(grids(), st.integers(0, 2))
def test_each_token_keeps_its_neighbours(grid: tuple[list[int], list[dict[str, int]]], extra: int) -> None:
    """The product of the axes, and extra tokens which keep and are kept by all."""
    shape, axes = grid
    n = math.prod(shape) + extra
    wanted = torch.ones(n, n, dtype=torch.bool)
    places = list(itertools.product(*(range(length) for length in shape)))
    for a, i in enumerate(places):
        near = [axis_keys(i[x], shape[x], **axes[x]) for x in range(len(shape))]
        for b, j in enumerate(places):
            wanted[extra + a, extra + b] = all(j[x] in near[x] for x in range(len(shape)))
    told = {name: tuple(axis[name] for axis in axes) for name in ("window", "dilation", "stride", "causal")}
    pattern = neighborhood(tuple(shape), extra=extra, **told)
    assert torch.equal(make_call(n, group=1, mask=()).kept(pattern)[0, 0], wanted)
    assert make(pattern.name) == pattern


def test_every_query_of_an_image_keeps_a_whole_window() -> None:
    """Shifted, not shrunk: at the corners too; with a class token, one more."""
    kept = make_call(1 + 9 * 7, group=1, mask=()).kept(neighborhood((9, 7), 3, extra=1))[0, 0]
    assert (kept.sum(1)[1:] == 9 + 1).all()
    assert kept[0].all()
    assert kept[1, 1:].nonzero()[:, 0].tolist() == [0, 1, 2, 7, 8, 9, 14, 15, 16]


def test_a_stride_as_long_as_the_window_is_blocked_attention() -> None:
    """On an axis that it divides."""
    kept = make_call(12, group=1, mask=()).kept(neighborhood(12, 3, stride=3))[0, 0]
    block = torch.arange(12) // 3
    assert torch.equal(kept, block[:, None] == block)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"shape": 12, "window": 0}, "window 0"),
        ({"shape": 12, "window": 3, "stride": 4}, "stride 4"),
        ({"shape": 12, "window": 3, "dilation": 0}, "dilation 0"),
        ({"shape": 0, "window": 3}, "shape=0"),
        ({"shape": (2, 2, 2, 2), "window": 1}, "4 axes"),
        ({"shape": (3, 4), "window": (3, 3, 3)}, "3 numbers of window for 2 axes"),
        ({"shape": 12, "window": 3, "extra": -1}, "extra=-1"),
    ],
)
def test_numbers_out_of_range_are_refused(asked: dict[str, object], match: str) -> None:
    """When the pattern is made."""
    with pytest.raises(ValueError, match=match):
        neighborhood(**asked)


def test_a_grid_of_other_tokens_is_refused() -> None:
    """With the grid and the number of keys found."""
    with pytest.raises(ValueError, match=r"3 x 4 and 1 extra tokens, 13 in all, but the call has"):
        make_call(12, group=1).select(neighborhood((3, 4), 3, extra=1))
