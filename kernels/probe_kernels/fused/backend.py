"""The Triton backend: the answers of `probe_kernels.sweep.attend`, from two kernels.

What a kernel cannot do is done all the same, and nowhere silently: a mask whose rule is a torch function is written
out for a few rows at a time; edited heads, functions over blocks (`Want.rows`) and gradients are the blocked torch
path's, on the same device, because they call Python for every block.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from probe_kernels import by_heads, gradient, over_queries, sweep
from probe_kernels.block import Inputs
from probe_kernels.fused import asked, plan, portions, visiting
from probe_kernels.fused.attach import joined, with_sink
from probe_kernels.fused.launch import RowAnswers, RowLaunch, Visited, fresh, sweep_columns
from probe_kernels.fused.problem import Problem, prepared
from probe_kernels.ledger import Ledger
from probe_kernels.types import Attended, Edits, Layout, Scores, Want
from probe_kernels.visit import Visit

_WRITTEN_ROWS = 256  # rows of a mask that are written out at a time
_MOST_ROWS_OF_GRID = 2**16 - 1  # batch rows times heads: the second axis of a CUDA grid


def check(scores: Scores, want: Want) -> None:
    """Raise `ValueError` for what the kernels do not take: dtypes, widths, sizes."""
    dtypes = [one.dtype for one in (scores.query, scores.key, scores.value) if one is not None]
    if any(dtype not in plan.DTYPES for dtype in dtypes):
        found = ", ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(
            f"the triton backend was asked for {found} tensors; it takes float16, bfloat16 or float32: use "
            "backend='torch'"
        )
    batch, heads = scores.query.shape[:2]
    if batch * heads > _MOST_ROWS_OF_GRID:
        raise ValueError(
            f"the triton backend was asked for {batch} sequences of {heads} heads at once; it takes at most "
            f"{_MOST_ROWS_OF_GRID // heads}: use backend='torch'"
        )
    plan.check(scores, want)


def attend(
    scores: Scores, layout: Layout, want: Want, edits: Edits | None = None, *, visit: Visit | None = None
) -> Attended:
    """Attention with statistics; see `probe_kernels.attend`.

    Raises:
        ValueError: what the kernels do not take: see `check`; positions or labels beyond 32 bits.
    """
    check(scores, want)
    touched = () if edits is None else edits.heads(scores.query.shape[1])
    if edits is None or not touched:
        return _attend(scores, layout, want, visit)
    if len(touched) == scores.query.shape[1] or want.rows:
        return sweep.attend(scores, layout, want, edits)
    whole = _attend(scores, layout, want, None)
    part = sweep.attend(by_heads.of_heads(scores, touched), layout, want, by_heads.renumbered(edits, touched))
    return by_heads.overwrite(whole, touched, part)


def _attend(scores: Scores, layout: Layout, want: Want, visit: Visit | None) -> Attended:
    if visit is not None:
        return visiting.attend(scores, layout, want, visit, rows_of=statistics)
    z = None
    if gradient.needed(scores):
        if want.z:
            ground = Problem.of(gradient.detached(scores), layout).ground
            z = gradient.z_with_gradient(Inputs.of(scores), ground, sweep.rows_at_once(scores))
        scores, want = gradient.detached(scores), replace(want, z=False)
    out = statistics(scores, layout, want, None)
    if want.rows:
        out.rows = sweep.attend(scores, layout, Want(z=False, rows=want.rows)).rows
    if z is not None:
        out.z = z
    return out


@torch.no_grad()
def statistics(scores: Scores, layout: Layout, want: Want, visited: Visited | None) -> Attended:
    """Everything that the kernels compute; with `visited`, of rows only."""
    problem = Problem.of(prepared(scores), layout)
    out = Attended(n_keys=scores.key.shape[2], table_block=want.table)
    lse: Tensor | None = None
    for launch, names in plan.launches(problem, want, asked.of_rows(want)):
        answers = joined(_rows(problem, launch, visited))
        if scores.sinks is not None:
            answers, out.sink_mass = with_sink(answers, scores.sinks)
        if lse is None:
            lse = answers.lse[0]
        asked.take_rows(out, answers, names, want)
    if out.z is not None and scores.value is not None:
        out.z = out.z.to(scores.value.dtype)
    if want.lse:
        out.lse = lse
    if lse is not None:
        _groups(problem, out, want, lse, visited)
        _columns(problem, out, want, lse)
    _counts(problem, out, want)
    return out


def _rows(problem: Problem, launch: RowLaunch, visited: Visited | None) -> RowAnswers:
    if problem.scores.sinks is not None:
        launch = replace(launch, wide=True)  # z is rounded once, after the sink has taken its share
    tiles, splits = plan.row_tiles(problem, launch)
    if visited is not None:
        tiles, splits = visiting.narrowed(tiles, visited), 1
    elif launch.ranked and not problem.in_order:
        visited = Visited(problem.by_position, problem.ground.n_query)
    answers = fresh(problem, launch, splits)
    for part in _pieces(problem):
        portions.sweep(part, launch, tiles, answers, visited)
    return answers


def _pieces(problem: Problem) -> Iterator[Problem]:
    """The problem itself, or a few rows at a time with what they see written out where no rule tells it."""
    if problem.ruled:
        yield problem
        return
    for rows in problem.ground.runs(_WRITTEN_ROWS):
        yield problem.part(rows)


def _groups(problem: Problem, out: Attended, want: Want, lse: Tensor, visited: Visited | None) -> None:
    """The z of each group of keys alone: attention over the group, weighed by its share of the row's mass."""
    value = problem.scores.value
    for name, labels in want.key_groups.items():
        n = asked.count(labels)
        if not n:
            out.key_groups[name] = lse.new_zeros((*lse.shape, 0))
        if name not in want.parts or value is None:
            continue
        found = lse.new_zeros((*lse.shape, n, value.shape[3]))
        for g in range(n):
            launch = RowLaunch(z=True, wide=True)
            group = joined(_rows(problem.without(labels != g), launch, visited))
            share = torch.exp(group.lse[0] - lse).masked_fill(group.lse[0] == -torch.inf, 0.0)
            if group.z is not None:
                found[..., g, :] = share[..., None] * group.z[0]
        out.parts[name] = found


def _columns(problem: Problem, out: Attended, want: Want, lse: Tensor) -> None:
    """Sums over queries: the column mass, bands of it, and groups of queries."""
    functionals = asked.of_columns(want)
    names = list(functionals)
    size = (*problem.scores.query.shape[:2], problem.ground.n_key)
    sums: dict[asked.Name, Tensor] = {}
    for start in range(0, len(names), plan.COLUMN_FUNCTIONALS):
        some = names[start : start + plan.COLUMN_FUNCTIONALS]
        found = lse.new_zeros((len(some), *size))
        for part in _pieces(problem):
            sweep_columns(part, lse, [functionals[name] for name in some], plan.column_tiles(problem), found)
        sums.update(zip(some, found, strict=True))
    asked.take_columns(out, sums, want, size)


def _counts(problem: Problem, out: Attended, want: Want) -> None:
    """What depends on the mask alone, from the same code as the torch path; kept with the layout for other layers."""
    if not (want.visible or want.column or want.bands):
        return
    kept = vars(problem.layout).setdefault("_counts", {})
    key = (problem.scores.query.shape[0], want.visible, want.column, want.bands)
    if key not in kept:
        kept[key] = _counted(
            problem, Want(z=False, visible=want.visible, column=want.column, bands=want.bands)
        )
    found: Attended = kept[key]
    out.visible = None if found.visible is None else found.visible.clone()
    out.seen_by = None if found.seen_by is None else found.seen_by.clone()
    out.band_seen_by = {band: seen.clone() for band, seen in found.band_seen_by.items()}


def _counted(problem: Problem, want: Want) -> Attended:
    query, key = problem.scores.query[:, :1], problem.scores.key[:, :1]
    ledger = Ledger(Scores(query, key, None, 1.0), problem.ground, want, torch.float32)
    for chunk in problem.ground.chunks(_WRITTEN_ROWS):
        over_queries.count(ledger, chunk)
    return ledger.out
