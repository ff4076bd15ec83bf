"""How a call is cut into launches and tiles, so that no launch spills registers; and what is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from triton import knobs

from probe_kernels.types import Scores, Want

INTERPRETED = bool(knobs.runtime.interpret)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_WIDTH = 256
WITH_Z = 1  # functionals of a launch that makes z as well
ALONE = 4  # functionals of a launch of their own
COLUMN_FUNCTIONALS = 4
PACKED_QUERIES = 16  # calls with at most so many queries read each key once for all heads that share it
SPLIT_TILES = 8  # key tiles of one share of a split row, at least
MOST_SPLITS = 64


@dataclass(frozen=True)
class Tiles:
    """Rows and keys of a tile, warps, pipeline stages; `pack`: rows of all query heads of a key head in one tile."""

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2
    pack: bool = False


def check(scores: Scores, want: Want) -> None:
    """Raise `ValueError` for what the kernels do not take."""
    query, value = scores.query, scores.value
    if query.dtype not in DTYPES or scores.key.dtype != query.dtype:
        raise ValueError(
            f"the triton backend was asked for {query.dtype} queries and {scores.key.dtype} keys; it takes float16, "
            "bfloat16 or float32, the same for both: use backend='torch'"
        )
    widths = query.shape[3], 0 if value is None else value.shape[3]
    if max(widths) > MOST_WIDTH:
        raise ValueError(
            f"the triton backend was asked for heads of width {max(widths)}; it takes at most {MOST_WIDTH}: use "
            "backend='torch'"
        )
    if want.table and want.table % 16:
        raise ValueError(
            f"the triton backend was asked for a table with blocks of {want.table} keys; it takes multiples of 16: use "
            "backend='torch'"
        )


def table_keys(block: int) -> int:
    """Width of the key tiles that make a table of `block` keys: its largest divisor among 64, 32 and 16."""
    return next(size for size in (64, 32, 16) if block % size == 0)


def launches(
    problem: Any, want: Want, functionals: Mapping[Any, Any]
) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The launches over rows, each with the names of its functionals; the first also tells every row's lse."""
    from probe_kernels.fused.launch import RowLaunch

    # Ranks count in the order of positions: a launch that visits keys so, and not as they lie, counts nothing else.
    apart = [] if problem.in_order else [name for name, one in functionals.items() if one.kind == "first"]
    names = [name for name in functionals if name not in apart]
    own = WITH_Z if want.z else ALONE
    yield (
        RowLaunch(
            want.z,
            want.entropy,
            want.square,
            want.top,
            table_keys(want.table) if want.table else 0,
            tuple(functionals[name] for name in names[:own]),
        ),
        tuple(names[:own]),
    )
    for start in range(own, len(names), ALONE):
        some = tuple(names[start : start + ALONE])
        yield RowLaunch(functionals=tuple(functionals[name] for name in some)), some
    for start in range(0, len(apart), ALONE):
        some = tuple(apart[start : start + ALONE])
        yield RowLaunch(functionals=tuple(functionals[name] for name in some)), some


def row_tiles(problem: Any, launch: Any) -> tuple[Tiles, int]:
    """Tiles of a launch over rows, and into how many shares its keys are split."""
    n_query, n_key = problem.scores.query.shape[2], problem.scores.key.shape[2]
    keys = launch.table or 64
    if n_query * problem.group <= 64 and n_query <= PACKED_QUERIES and problem.ruled:
        rows = max(16, 1 << (n_query * problem.group - 1).bit_length())
        # Ranks count from the row's first key on.
        splits = 1 if launch.ranked else max(1, min(MOST_SPLITS, -(-n_key // (keys * SPLIT_TILES))))
        return Tiles(rows, keys, pack=True), splits
    wide = problem.scores.query.shape[3] > 128
    return Tiles(64 if wide else 128, keys, 4 if wide else 8), 1


def column_tiles(problem: Any) -> Tiles:
    """Tiles of a launch over keys."""
    wide = problem.scores.query.shape[3] > 128
    return Tiles(64, 64 if wide else 128, 4 if wide else 8)
