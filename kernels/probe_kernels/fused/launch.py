"""Starts the two kernels: arguments from a `Problem`, answers into fresh tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from probe_kernels.fused import columns as column_kernel
from probe_kernels.fused import functionals as functional_kinds
from probe_kernels.fused import rows as row_kernel
from probe_kernels.fused.plan import INTERPRETED, Tiles
from probe_kernels.fused.problem import Functional, Problem, given, step, steps
from probe_kernels.fused.ranges import Ranges, transposed

_DOT = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    kernel[grid](*arguments, **options)


start: Callable[..., Any] = _run  # compiling ahead of time puts something else here


@dataclass(frozen=True)
class RowLaunch:
    """What one launch over rows computes; lse always."""

    z: bool = False
    entropy: bool = False
    square: bool = False
    top: bool = False
    table: int = 0  # keys per block: the width of the key tiles
    functionals: tuple[Functional, ...] = ()
    wide: bool = INTERPRETED  # z in float32; the interpreter would cut bfloat16 off instead of rounding

    @property
    def ranked(self) -> bool:
        """Whether keys are counted in the order of their positions."""
        return any(one.kind == "first" for one in self.functionals)


@dataclass
class RowAnswers:
    """Answers of one launch, float32 ``[splits, B, H, Q]``; those that were not asked are None."""

    lse: Tensor
    z: Tensor | None
    entropy: Tensor | None
    square: Tensor | None
    top_p: Tensor | None
    top: Tensor | None  # int32
    table: Tensor | None  # [B, H, J, Q], shared by all splits
    masses: Tensor | None  # [functionals, splits, B, H, Q]


def fresh(problem: Problem, launch: RowLaunch, splits: int) -> RowAnswers:
    """Memory for the answers of all rows, as rows that see no key have them."""
    query, value, n_key = problem.scores.query, problem.scores.value, problem.scores.key.shape[2]
    shape = (splits, *query.shape[:3])

    def rows(wanted: object, *more: int) -> Tensor | None:
        return query.new_zeros((*more, *shape), dtype=torch.float32) if wanted else None

    z = None
    if launch.z and value is not None:
        z = query.new_zeros(
            (*shape, value.shape[3]), dtype=torch.float32 if launch.wide or splits > 1 else value.dtype
        )
    table = None
    if launch.table:
        blocks = -(-n_key // launch.table)
        table = query.new_full((*query.shape[:2], blocks, query.shape[2]), -torch.inf, dtype=torch.float32)
    return RowAnswers(
        query.new_full(shape, -torch.inf, dtype=torch.float32),
        z,
        rows(launch.entropy),
        rows(launch.square),
        rows(launch.top),
        query.new_full(shape, -1, dtype=torch.int32) if launch.top else None,
        table,
        rows(launch.functionals, len(launch.functionals)),
    )


def sweep_rows(
    problem: Problem,
    launch: RowLaunch,
    tiles: Tiles,
    answers: RowAnswers,
    *,
    visited: Tensor | None = None,
    rows_each: int = 0,
) -> None:
    """Fill the answers of the problem's rows. `visited` int32 [b, h, blocks, T]: the keys that each `rows_each` rows see."""
    scores, splits = problem.scores, answers.lse.shape[0]
    batch, heads, n_query, width = scores.query.shape
    n_rows, n_key = problem.rows.stop - problem.rows.start, scores.key.shape[2]
    value, key_pos = given(scores.value, scores.key), problem.key_pos
    asks = problem.key_real is not None or problem.dense is not None
    found = Ranges.of(problem.ground, problem.rows, (tiles.rows, tiles.keys), asks=asks)
    if tiles.pack:
        found = found.whole()
    if visited is not None:
        zero = torch.zeros_like(found.low)
        found = Ranges(zero, zero, zero, zero + visited.shape[3])
    queries = n_rows * (problem.group if tiles.pack else 1)
    lead = scores.key.shape[1] if tiles.pack else heads
    lse = answers.lse
    ids = [one for f in launch.functionals for one in (f.query_ids, f.key_ids)]
    visit_steps = (0, 0, 0, 1)
    if visited is not None:
        b, h, _, t = visited.shape
        visit_steps = (0 if b == 1 else visited.stride(0), 0 if h == 1 else visited.stride(1), t, rows_each)
    grid = (-(-queries // tiles.rows) * splits, batch * lead)
    start(
        row_kernel.attend_rows,
        grid,
        (
            scores.query,
            scores.key,
            value,
            given(scores.bias, scores.query),
            given(scores.alibi, lse),
            given(problem.dense, key_pos),
        ),
        (
            problem.query_pos,
            key_pos,
            given(problem.query_segment, key_pos),
            given(problem.key_segment, key_pos),
            given(problem.key_real, key_pos),
        ),
        (found.low, found.full_low, found.full_high, found.high, given(visited, key_pos)),
        (
            given(answers.z, lse),
            lse,
            given(answers.entropy, lse),
            given(answers.square, lse),
            given(answers.top_p, lse),
            given(answers.top, key_pos),
            given(answers.table, lse),
            given(answers.masses, lse),
        ),
        (
            scores.query.stride(),
            scores.key.stride(),
            value.stride(),
            steps(scores.bias, (batch, heads, n_query, n_key)),
            (0, 0, 0) if problem.dense is None else (step(problem.dense), *problem.dense.stride()[1:]),
            _position_steps(problem, ids),
            visit_steps,
        ),
        (
            0 if answers.table is None else answers.table.shape[2],
            batch * heads * n_query,
            splits * batch * heads * n_query,
        ),
        problem.rules.tables,
        tuple(given(f.query_ids, problem.query_pos) for f in launch.functionals) or (key_pos,),
        tuple(given(f.key_ids, key_pos) for f in launch.functionals) or (key_pos,),
        scores.scale,
        scores.softcap or 1.0,
        n_query,
        n_key,
        problem.rows.start,
        n_rows,
        lead,
        problem.group,
        splits,
        problem.rules.all_of,
        problem.rules.all_numbers,
        problem.rules.any_of,
        problem.rules.any_numbers,
        tuple(functional_kinds.KINDS[f.kind] for f in launch.functionals),
        tuple(f.numbers for f in launch.functionals),
        VISIT=visited is not None,
        DENSE=problem.dense is not None,
        KEY_REAL=problem.key_real is not None,
        SEGMENTS=problem.query_segment is not None and problem.key_segment is not None,
        BIAS=scores.bias is not None,
        ALIBI=scores.alibi is not None,
        SOFTCAP=scores.softcap is not None,
        CAREFUL=problem.careful,
        WANT_Z=launch.z,
        ENTROPY=launch.entropy,
        SQUARE=launch.square,
        TOP=launch.top,
        TABLE=launch.table > 0,
        RANK=launch.ranked,
        PACK=tiles.pack,
        D=width,
        DV=value.shape[3],
        BD=padded(width),
        BDV=padded(value.shape[3]),
        BM=tiles.rows,
        BN=tiles.keys,
        DOT=tl.float32 if INTERPRETED else _DOT[scores.query.dtype],
        PRECISION="tf32x3" if scores.query.dtype == torch.float32 else "tf32",
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def sweep_columns(
    problem: Problem, lse: Tensor, functionals: Sequence[Functional], tiles: Tiles, out: Tensor
) -> None:
    """Add sums over the problem's real rows to ``out [functionals, B, H, K]``; lse ``[B, H, Q]`` holds any sink."""
    scores, key_pos = problem.scores, problem.key_pos
    batch, heads, n_query, width = scores.query.shape
    n_key, first, stop = scores.key.shape[2], problem.rows.start, problem.rows.stop
    asks = problem.key_real is not None or problem.dense is not None
    found = Ranges.of(problem.ground, problem.rows, (tiles.rows, tiles.keys), asks=asks)
    low, high = transposed(found, n_key, tiles.rows, tiles.keys, first, stop)
    real = problem.ground.query_real
    query_real = None if real is None else real.to(torch.int8).contiguous()
    ids = [one for f in functionals for one in (f.query_ids, f.key_ids)]
    made = torch.zeros_like(out)
    start(
        column_kernel.attend_columns,
        (-(-n_key // tiles.keys), batch * heads),
        (
            scores.query,
            scores.key,
            given(scores.bias, scores.query),
            given(scores.alibi, lse),
            given(problem.dense, key_pos),
        ),
        (
            problem.query_pos,
            key_pos,
            given(problem.query_segment, key_pos),
            given(problem.key_segment, key_pos),
            given(problem.key_real, key_pos),
            given(query_real, key_pos),
        ),
        (low, high),
        lse,
        made,
        (
            scores.query.stride(),
            scores.key.stride(),
            steps(scores.bias, (batch, heads, n_query, n_key)),
            (0, 0, 0) if problem.dense is None else (step(problem.dense), *problem.dense.stride()[1:]),
            (*_position_steps(problem, [])[:5], step(query_real), *(step(one) for one in ids)),
        ),
        problem.rules.tables,
        tuple(given(f.query_ids, problem.query_pos) for f in functionals),
        tuple(given(f.key_ids, key_pos) for f in functionals),
        scores.scale,
        scores.softcap or 1.0,
        n_query,
        n_key,
        first,
        stop - first,
        heads,
        problem.group,
        batch * heads * n_key,
        problem.rules.all_of,
        problem.rules.all_numbers,
        problem.rules.any_of,
        problem.rules.any_numbers,
        tuple(functional_kinds.KINDS[f.kind] for f in functionals),
        tuple(f.numbers for f in functionals),
        DENSE=problem.dense is not None,
        KEY_REAL=problem.key_real is not None,
        QUERY_REAL=query_real is not None,
        SEGMENTS=problem.query_segment is not None and problem.key_segment is not None,
        BIAS=scores.bias is not None,
        ALIBI=scores.alibi is not None,
        SOFTCAP=scores.softcap is not None,
        D=width,
        BD=padded(width),
        BM=tiles.rows,
        BN=tiles.keys,
        DOT=tl.float32 if INTERPRETED else _DOT[scores.query.dtype],
        PRECISION="tf32x3" if scores.query.dtype == torch.float32 else "tf32",
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    out += made


def padded(width: int) -> int:
    """The tile's width for a head width: the next power of two, at least 16, as tensor cores ask."""
    return max(16, 1 << (width - 1).bit_length())


def _position_steps(problem: Problem, ids: Sequence[Tensor | None]) -> tuple[int, ...]:
    own = (problem.query_pos, problem.key_pos, problem.query_segment, problem.key_segment, problem.key_real)
    return tuple(step(one) for one in (*own, *ids))
