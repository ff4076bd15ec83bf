"""How a call is cut into launches and tiles, so that no launch spills registers; and what is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from triton import knobs
from triton.runtime import driver

from probe_kernels.types import Scores, Want

INTERPRETED = bool(knobs.runtime.interpret)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_WIDTH = 256
WITH_Z = 1  # functionals of a launch that makes z as well
WITH_Z_NARROW = 2  # the same where heads are at most 64 wide, and of the rest nothing but entropy is wanted
MOST_WIDTH_FLOAT32 = 128  # queries and keys; three products of parts each take the registers of wider ones
_PORTION, _PORTION_FLOAT32 = 128, 64  # columns of z made at a time: more would not fit the registers
ALONE = 4  # functionals of a launch of their own
COLUMN_FUNCTIONALS = 4
PACKED_QUERIES = 16  # calls with at most so many queries read each key once for all heads that share it
SPLIT_TILES = 8  # key tiles of one share of a split row, at least
MOST_SPLITS = 64
_LEAST_SHARED = 99 * 1024
_SHARED = {80: 163 * 1024, 87: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 103: 227 * 1024}


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
    if query.dtype == torch.float32 and query.shape[3] > MOST_WIDTH_FLOAT32:
        raise ValueError(
            f"the triton backend was asked for float32 heads of width {query.shape[3]}; it takes at most "
            f"{MOST_WIDTH_FLOAT32} of float32: use backend='torch'"
        )
    if want.table and want.table % 16:
        raise ValueError(
            f"the triton backend was asked for a table with blocks of {want.table} keys; it takes multiples of 16: use "
            "backend='torch'"
        )


def table_keys(block: int, most: int) -> int:
    """Width of the key tiles that make a table of `block` keys: its largest divisor of 64, 32 and 16 up to `most`."""
    return next(size for size in (64, 32, 16) if size <= most and block % size == 0)


def launches(
    problem: Any, want: Want, functionals: Mapping[Any, Any]
) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The launches over rows, each with the names of its functionals; the first also tells every row's lse."""
    from probe_kernels.fused.launch import RowLaunch

    # Ranks count in the order of positions, and ask of every tile what it shows: they go where least else is computed.
    ranked = [name for name, one in functionals.items() if one.kind == "first"]
    names = [name for name in functionals if name not in ranked]
    own = _room(problem, want)
    first, rest = names[:own], names[own:]
    if problem.in_order:
        rest, ranked = rest + ranked, []
        if not want.z:
            room = own - len(first)
            first, rest = first + rest[:room], rest[room:]
    made = RowLaunch(
        want.z, want.entropy, want.square, want.top, want.table, tuple(functionals[name] for name in first)
    )
    if want.table:
        made = replace(made, table=table_keys(want.table, _tiles(problem, made).keys))
    yield made, tuple(first)
    for more in (rest, ranked):
        for start in range(0, len(more), ALONE):
            some = tuple(more[start : start + ALONE])
            yield RowLaunch(functionals=tuple(functionals[name] for name in some)), some


def _room(problem: Any, want: Want) -> int:
    """Functionals that the first launch takes along."""
    if not want.z:
        return ALONE
    if _heavy(want):
        return 0
    light = not (want.square or want.top or want.table)
    return WITH_Z_NARROW if light and _widest(problem) <= 64 else WITH_Z


def _packed(problem: Any) -> bool:
    """Whether rows of all query heads that share a key head go into one tile."""
    n_query = problem.scores.query.shape[2]
    return bool(n_query * problem.group <= 64 and n_query <= PACKED_QUERIES and problem.ruled)


def _heavy(asked: Any) -> bool:
    """Whether a `Want` or a launch asks for two or more of squares, top and the table."""
    return bool(asked.square) + bool(asked.top) + bool(asked.table) >= 2


def architecture(device: torch.device) -> int:
    """Compute capability as one number, 80 for 8.0; without a device that of the compiler's target."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major * 10 + minor
    return 80 if INTERPRETED else int(driver.active.get_current_target().arch)


def shared_memory(arch: int) -> int:
    """Bytes of shared memory that one block can have."""
    return _SHARED.get(arch, _LEAST_SHARED)


def row_tiles(problem: Any, launch: Any) -> tuple[Tiles, int]:
    """Tiles of a launch over rows, and into how many shares its keys are split."""
    n_query, n_key = problem.scores.query.shape[2], problem.scores.key.shape[2]
    tiles = _tiles(problem, launch)
    if launch.table:
        tiles = replace(tiles, keys=launch.table)
    if _packed(problem):
        rows = max(16, 1 << (n_query * problem.group - 1).bit_length())
        # Ranks count from the row's first key on.
        splits = 1 if launch.ranked else max(1, min(MOST_SPLITS, -(-n_key // (tiles.keys * SPLIT_TILES))))
        return replace(tiles, rows=min(rows, tiles.rows), warps=4, pack=True), splits
    return tiles, 1


def column_tiles(problem: Any) -> Tiles:
    """Tiles of a launch over keys."""
    if problem.scores.query.dtype == torch.float32:
        return Tiles(16, 64, 4, 2)
    return Tiles(64, 128, 8, 3 if problem.scores.query.shape[3] <= 128 else 2)


def _tiles(problem: Any, launch: Any) -> Tiles:
    """The widest tiles that a launch does not spill with: found by compiling, see docs/kernels.md."""
    arch, width = architecture(problem.scores.query.device), problem.scores.query.shape[3]
    if problem.scores.query.dtype == torch.float32:
        return Tiles(64, 16, 4, 2)
    if shared_memory(arch) == _LEAST_SHARED:
        return Tiles(64, 32, 4, 2)
    return Tiles(128, 32 if _tight(problem, launch, arch) else 64, 8, 3 if width <= 128 else 2)


def _tight(problem: Any, launch: Any, arch: int) -> bool:
    """Whether only half as many keys go into a tile."""
    if not launch.z:
        return len(launch.functionals) >= ALONE
    if _widest(problem) <= 64:
        return False
    carries = problem.scores.bias is not None or problem.dense is not None
    carries = carries or problem.places.query_segment is not None or _packed(problem)
    return (
        arch < 90
        or carries
        or launch.top
        or _heavy(launch)
        or any(one.kind != "key_group" for one in launch.functionals)
    )


def portion(dtype: torch.dtype) -> int:
    """Columns of z that one launch makes, at most."""
    return _PORTION_FLOAT32 if dtype == torch.float32 else _PORTION


def _widest(problem: Any) -> int:
    """Width of queries or of the part of the values that a launch sums up."""
    query, value = problem.scores.query, problem.scores.value
    return max(int(query.shape[3]), 0 if value is None else min(int(value.shape[3]), portion(query.dtype)))
