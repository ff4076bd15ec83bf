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
from probe_kernels.fused import shares
from probe_kernels.fused.plan import INTERPRETED, Tiles
from probe_kernels.fused.problem import Functional, Places, Problem, given, step, steps
from probe_kernels.fused.ranges import Ranges, transposed

_DOT = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    query: Tensor = arguments[0][0]
    if query.device.type == "cuda":
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device(query.device):
            kernel[grid](*arguments, **options)
    else:
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
    table_keys: int = 0  # keys per block of the table

    @property
    def blocks(self) -> int:
        """Blocks of the table; 0 where there is none."""
        return 0 if self.table is None else self.table.shape[2]


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
        launch.table,
    )


@dataclass(frozen=True)
class Visited:
    """Keys that each block of `rows` queries looks at: storage indices, int32 ``[b, h, blocks, T]``, -1 = none."""

    index: Tensor
    rows: int

    @property
    def steps(self) -> tuple[int, int, int, int]:
        """From batch row to batch row, head to head, block to block; and the rows of a block."""
        b, h, _, width = self.index.shape
        by_batch = 0 if b == 1 else self.index.stride(0)
        return by_batch, 0 if h == 1 else self.index.stride(1), width, self.rows


def sweep_rows(
    problem: Problem, launch: RowLaunch, tiles: Tiles, answers: RowAnswers, visited: Visited | None = None
) -> None:
    """Fill the answers ``[splits, B, H, Q]`` of the problem's rows; `visited` narrows their keys."""
    scores, splits = problem.scores, answers.lse.shape[0]
    batch, heads, n_query, _ = scores.query.shape
    n_rows, n_key = problem.rows.stop - problem.rows.start, scores.key.shape[2]
    value = given(scores.value, scores.key)
    lead = scores.key.shape[1] if tiles.pack else heads
    blocks = -(-n_rows * (problem.group if tiles.pack else 1) // tiles.rows)
    start(
        row_kernel.attend_rows,
        (blocks * splits, batch * lead),
        (scores.query, scores.key, value, *_score_terms(problem, answers.lse)),
        _layout(problem),
        _row_ranges(problem, tiles, visited),
        _row_outputs(problem, answers),
        (
            *(one.stride() for one in (scores.query, scores.key, value)),
            *_term_steps(problem),
            (*_position_steps(problem), *_id_steps(launch.functionals)),
            (0, 0, 0, 1) if visited is None else visited.steps,
        ),
        (answers.blocks, batch * heads * n_query, answers.lse.numel()),
        *_functional_pointers(problem, launch.functionals),
        shares.of_tiles(launch.functionals, tiles.keys, problem.places.key_pos),
        *_numbers(problem),
        n_query,
        n_key,
        problem.rows.start,
        n_rows,
        lead,
        problem.group,
        splits,
        *_compiled(problem, launch.functionals),
        tuple(shares.grouped(one) for one in launch.functionals),
        VISIT=visited is not None,
        **_flags(problem),
        CAREFUL=problem.careful,
        WANT_Z=launch.z,
        ENTROPY=launch.entropy,
        SQUARE=launch.square,
        TOP=launch.top,
        TABLE=launch.table > 0,
        RANK=launch.ranked,
        PACK=tiles.pack,
        DV=value.shape[3],
        BDV=padded(value.shape[3]),
        **_shape(problem, tiles),
    )


def sweep_columns(
    problem: Problem, lse: Tensor, functionals: Sequence[Functional], tiles: Tiles, out: Tensor
) -> None:
    """Add sums over the problem's real rows to ``out [functionals, B, H, K]``; lse ``[B, H, Q]`` holds any sink."""
    scores, query_real = problem.scores, problem.places.query_real
    batch, heads, n_query, _ = scores.query.shape
    n_key, rows = scores.key.shape[2], problem.rows
    made = torch.zeros_like(out)
    start(
        column_kernel.attend_columns,
        (-(-n_key // tiles.keys), batch * heads),
        (scores.query, scores.key, *_score_terms(problem, lse)),
        (*_layout(problem), given(query_real, problem.places.key_pos)),
        transposed(problem.ground, rows, (tiles.rows, tiles.keys), asks=problem.asks),
        lse,
        made,
        (
            scores.query.stride(),
            scores.key.stride(),
            *_term_steps(problem),
            (*_position_steps(problem), step(query_real), *_id_steps(functionals)),
        ),
        *_functional_pointers(problem, functionals),
        *_numbers(problem),
        n_query,
        n_key,
        rows.start,
        rows.stop - rows.start,
        heads,
        problem.group,
        batch * heads * n_key,
        *_compiled(problem, functionals),
        **_flags(problem),
        QUERY_REAL=query_real is not None,
        **_shape(problem, tiles),
    )
    out += made


def padded(width: int) -> int:
    """The tile's width for a head width: the next power of two, at least 16, as tensor cores ask."""
    return max(16, 1 << (width - 1).bit_length())


def _score_terms(problem: Problem, floats: Tensor) -> tuple[Any, ...]:
    """Bias, slopes and the written-out mask, or memory that is never read."""
    scores = problem.scores
    return (
        given(scores.bias, scores.query),
        given(scores.alibi, floats),
        given(problem.dense, problem.places.key_pos),
    )


def _layout(problem: Problem) -> tuple[Any, ...]:
    places = problem.places
    nothing = places.key_pos
    return (
        places.query_pos,
        places.key_pos,
        given(places.query_segment, nothing),
        given(places.key_segment, nothing),
        given(problem.key_real, nothing),
    )


def _row_ranges(problem: Problem, tiles: Tiles, visited: Visited | None) -> tuple[Any, ...]:
    found = Ranges.of(problem.ground, problem.rows, (tiles.rows, tiles.keys), asks=problem.asks)
    if tiles.pack:
        found = found.whole()
    if visited is not None:
        found = found.visit(visited.index.shape[3])
    index = None if visited is None else visited.index
    return found.low, found.full_low, found.full_high, found.high, given(index, problem.places.key_pos)


def _row_outputs(problem: Problem, answers: RowAnswers) -> tuple[Any, ...]:
    lse = answers.lse
    return (
        given(answers.z, lse),
        lse,
        given(answers.entropy, lse),
        given(answers.square, lse),
        given(answers.top_p, lse),
        given(answers.top, problem.places.key_pos),
        given(answers.table, lse),
        given(answers.masses, lse),
    )


def _term_steps(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides of the bias and of the written-out mask."""
    scores, dense = problem.scores, problem.dense
    shape = (*scores.query.shape[:3], scores.key.shape[2])
    return steps(scores.bias, shape), (0, 0, 0) if dense is None else (step(dense), *dense.stride()[1:])


def _position_steps(problem: Problem) -> tuple[int, ...]:
    places: Places = problem.places
    own = (places.query_pos, places.key_pos, places.query_segment, places.key_segment, problem.key_real)
    return tuple(step(one) for one in own)


def _id_steps(functionals: Sequence[Functional]) -> tuple[int, ...]:
    return tuple(step(ids) for one in functionals for ids in (one.query_ids, one.key_ids))


def _functional_pointers(problem: Problem, functionals: Sequence[Functional]) -> tuple[tuple[Any, ...], ...]:
    """Tables of the rules, then the ids of queries and of keys that the functionals compare; none of them empty."""
    query_pos, key_pos = problem.places.query_pos, problem.places.key_pos
    return (
        problem.rules.tables,
        tuple(given(one.query_ids, query_pos) for one in functionals) or (query_pos,),
        tuple(given(one.key_ids, key_pos) for one in functionals) or (key_pos,),
    )


def _numbers(problem: Problem) -> tuple[float, float]:
    softcap = problem.scores.softcap
    return float(problem.scores.scale), 1.0 if softcap is None else float(softcap)


def _compiled(problem: Problem, functionals: Sequence[Functional]) -> tuple[Any, ...]:
    """The Triton functions that are compiled in, and their numbers."""
    rules = problem.rules
    return (
        rules.all_of,
        rules.all_numbers,
        rules.any_of,
        rules.any_numbers,
        tuple(functional_kinds.KINDS[one.kind] for one in functionals),
        tuple(one.numbers for one in functionals),
    )


def _flags(problem: Problem) -> dict[str, bool]:
    scores, places = problem.scores, problem.places
    return {
        "DENSE": problem.dense is not None,
        "KEY_REAL": problem.key_real is not None,
        "IN_ORDER": problem.in_order,
        "SEGMENTS": places.query_segment is not None and places.key_segment is not None,
        "BIAS": scores.bias is not None,
        "ALIBI": scores.alibi is not None,
        "SOFTCAP": scores.softcap is not None,
    }


def _shape(problem: Problem, tiles: Tiles) -> dict[str, Any]:
    """Width, tile, what the products are made in, and how the compiler is to pipeline them."""
    query = problem.scores.query
    return {
        "D": query.shape[3],
        "BD": padded(query.shape[3]),
        "BM": tiles.rows,
        "BN": tiles.keys,
        "DOT": tl.float32 if INTERPRETED else _DOT[query.dtype],
        "PRECISION": "tf32x3" if query.dtype == torch.float32 else "tf32",
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
