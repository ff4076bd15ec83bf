"""Each rule's twin says what the rule says, in the kernels and in the ranges of keys that they visit."""

from dataclasses import replace

import pytest
import torch
from attention_problems import MASKS, make_mask
from fused_problems import DEVICE, agrees, put, small
from hypothesis import example, given, settings
from hypothesis import strategies as st
from probe_kernels import Layout, Mask, Predicate, Want
from probe_kernels.cells import between_cells
from probe_kernels.chunks import Ground
from probe_kernels.fused.predicates import KINDS
from probe_kernels.fused.ranges import Ranges, transposed
from probe_kernels.fused.rules import Rules
from probe_kernels.grid import Axis, near_nd
from probe_kernels.mask import (
    adjacent,
    at_every,
    causal,
    every,
    first,
    near,
    power_of_two,
    same_chunk,
    same_segment,
    within,
)

GRAPH = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
TWINS = {
    "causal": causal(),
    "within": within(5),
    "near": near(3),
    "every": every(3),
    "same_chunk": same_chunk(7),
    "first": first(4),
    "same_segment": same_segment(),
    "adjacent": adjacent(GRAPH),
    "at_every": at_every(4),
    "power_of_two": power_of_two(3, 2),
    "between_cells": between_cells((-9, 4), GRAPH),
    "near_nd": near_nd((Axis(5, 3, stride=2), Axis(6, 2, dilation=2, causal=True)), extra=-10),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_twin_says_what_its_rule_says(kind: str) -> None:
    """Alone, and as one of several of which one must hold; positions below zero included."""
    for mask in (Mask((TWINS[kind],)), Mask((within(30),), (TWINS[kind], every(11)))):
        problem = small("none", n_query=20, n_key=40)
        layout = problem.layout
        # Segment -1 belongs to none, and the graph does not know segments 3 to 6.
        segments = torch.arange(40, device=DEVICE)[None] // 6 - 1
        layout = replace(
            layout,
            mask=put(mask),
            query_pos=layout.query_pos - 25,
            key_pos=layout.key_pos - 25,
            query_segment=segments[:, 20:] - 1,
            key_segment=segments,
        )
        agrees(replace(problem, layout=layout), Want(lse=True, top=True, column=True))


def test_a_mask_with_one_rule_unknown_is_written_out() -> None:
    """One torch function among twins, and the whole mask is a table of a few rows at a time."""
    unknown = Predicate("odd", lambda tile: (tile.query_pos + tile.key_pos) % 2 == 1)
    nothing = torch.zeros(1, 1, dtype=torch.int32)
    assert Rules.of(Mask((causal(), near(3))), nothing) is not None
    assert Rules.of(Mask((causal(), unknown)), nothing) is None


def test_a_mask_of_many_rows_is_written_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of later pieces find their own part of the table, their positions, ids and answers."""
    monkeypatch.setattr("probe_kernels.fused.backend._WRITTEN_ROWS", 32)
    problem = small("rule", n_query=70, n_key=75, group=1)
    agrees(
        problem,
        Want(lse=True, entropy=True, column=True, bands=((0, 5),), first=(2,), table=16, visible=True),
    )


@example("sliding", 40, 60, 16, 16, 19, False)  # the first key in reach is the last of its tile
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*MASKS, *TWINS]),
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([16, 32]),
    st.sampled_from([16, 64]),
    st.integers(-3, 40),
    st.booleans(),
)
def test_ranges_leave_out_nothing_that_is_seen(
    kind: str, n_query: int, n_key: int, size: int, width: int, start: int, batched: bool
) -> None:
    """Keys outside a tile's range are seen by none of its rows, keys in its full range by all; and turned round."""
    mask = Mask((TWINS[kind],)) if kind in TWINS else make_mask(kind, n_query, n_key)
    query_pos = torch.arange(n_query)[None] + start
    query_pos = torch.cat((query_pos, query_pos - 2)) if batched else query_pos
    segments = torch.arange(200)[None] // 6
    layout = Layout(mask, query_pos, torch.arange(n_key)[None], segments[:, :n_query], segments[:, :n_key])
    ground = Ground(layout, n_query, n_key)
    seen = ground.tile(slice(0, n_query), slice(0, n_key))
    seen = torch.ones(1, n_query, n_key, dtype=torch.bool) if seen is None else seen
    found = Ranges.of(ground, slice(0, n_query), (size, width), asks=False)
    first_row, last_row = transposed(ground, slice(0, n_query), (size, width), asks=False)
    for tile in range(-(-n_query // size)):
        own = seen[:, tile * size : (tile + 1) * size]
        low, high = int(found.low[tile]), int(found.high[tile])
        full = slice(int(found.full_low[tile]), int(found.full_high[tile]))
        assert not own[..., :low].any()
        assert not own[..., high:].any()
        assert own[..., full].all()
        assert low % width == full.start % width == full.stop % width == 0 or full.start == full.stop
    for tile in range(-(-n_key // width)):
        own = seen[..., tile * width : (tile + 1) * width]
        assert not own[:, : int(first_row[tile])].any()
        assert not own[:, int(last_row[tile]) :].any()
