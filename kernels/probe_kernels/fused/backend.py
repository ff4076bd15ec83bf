"""The Triton backend: the answers of `probe_kernels.sweep.attend`, from two kernels.

What a kernel cannot do is done all the same, and nowhere silently: a mask whose rule is a torch function is written out
for a few rows at a time; edited heads, functions over blocks and gradients are the blocked torch path's, on the same
device, because they call Python for every block.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from probe_kernels import by_heads, gradient, over_queries, sweep
from probe_kernels.block import Inputs
from probe_kernels.fused import plan
from probe_kernels.fused.attach import coarser, joined, with_sink
from probe_kernels.fused.launch import RowAnswers, RowLaunch, fresh, sweep_columns, sweep_rows
from probe_kernels.fused.problem import Functional, Problem
from probe_kernels.ledger import Ledger
from probe_kernels.types import Attended, Edits, Layout, Scores, Want

_WRITTEN_ROWS = 256  # rows of a mask that are written out at a time


def attend(scores: Scores, layout: Layout, want: Want, edits: Edits | None = None) -> Attended:
    """Attention with statistics; see `probe_kernels.attend`.

    Raises:
        ValueError: what the kernels do not take: see `probe_kernels.fused.plan.check`.
    """
    plan.check(scores, want)
    touched = () if edits is None else edits.heads(scores.query.shape[1])
    if edits is None or not touched:
        return _attend(scores, layout, want)
    if len(touched) == scores.query.shape[1] or want.rows:
        return sweep.attend(scores, layout, want, edits)
    whole = _attend(scores, layout, want)
    part = sweep.attend(by_heads.of_heads(scores, touched), layout, want, by_heads.renumbered(edits, touched))
    return by_heads.overwrite(whole, touched, part)


def _attend(scores: Scores, layout: Layout, want: Want) -> Attended:
    z = None
    if gradient.needed(scores):
        if want.z:
            problem = Problem.of(gradient.detached(scores), layout)
            z = gradient.z_with_gradient(Inputs.of(scores), problem.ground, sweep.rows_at_once(scores))
        scores, want = gradient.detached(scores), replace(want, z=False)
    with torch.no_grad():
        out = _statistics(Problem.of(scores, layout), want)
    if want.rows:
        out.rows = sweep.attend(scores, layout, Want(z=False, rows=want.rows)).rows
    if z is not None:
        out.z = z
    return out


def _statistics(problem: Problem, want: Want) -> Attended:
    scores = problem.scores
    out = Attended(n_keys=scores.key.shape[2], table_block=want.table)
    asked = _functionals(want)
    lse: Tensor | None = None
    for launch, names in plan.launches(problem, want, asked):
        answers = joined(_rows(problem, launch))
        if scores.sinks is not None:
            answers, out.sink_mass = with_sink(answers, scores.sinks)
        lse = answers.lse[0]
        _take(out, answers, names, want)
    if out.z is not None and scores.value is not None:
        out.z = out.z.to(scores.value.dtype)
    if want.lse:
        out.lse = lse
    _parts(problem, out, want, lse)
    _columns(problem, out, want, lse)
    _counts(problem, out, want)
    return out


def _rows(problem: Problem, launch: RowLaunch) -> RowAnswers:
    tiles, splits = plan.row_tiles(problem, launch)
    answers = fresh(problem, launch, splits)
    visited = _by_position(problem) if launch.ranked and problem.ground.key_start is None else None
    for part in _pieces(problem):
        sweep_rows(part, launch, tiles, answers, visited=visited, rows_each=scores_rows(problem))
    return answers


def scores_rows(problem: Problem) -> int:
    return problem.scores.query.shape[2]


def _by_position(problem: Problem) -> Tensor:
    """Every key, in the order of positions, which is not that of storage: a visit of all by all, int32 [b, 1, 1, K]."""
    return problem.key_pos.argsort(dim=1, stable=True).to(torch.int32)[:, None, None].contiguous()


def _pieces(problem: Problem) -> Iterator[Problem]:
    """The problem itself, or a few rows at a time with what they see written out where no rule tells it."""
    if problem.ruled:
        yield problem
        return
    n = problem.rows.stop
    for start in range(0, n, _WRITTEN_ROWS):
        yield problem.part(slice(start, min(start + _WRITTEN_ROWS, n)))


Name = tuple[str, object]


def _functionals(want: Want) -> dict[Name, Functional]:
    """Statistics of rows that are linear in p, by field and key."""
    made: dict[Name, Functional] = {}
    if want.distance:
        made["distance", None] = Functional("distance")
    for n in want.first:
        made["first", n] = Functional("first", (n,))
    for o in want.offsets:
        made["offsets", o] = Functional("offset", (o,))
    for name, match in want.matches.items():
        made["matches", name] = Functional("match", (0,), _small(match.query_ids), _small(match.key_ids))
    for name, labels in want.key_groups.items():
        ids = _small(labels)
        for g in range(_count(labels)):
            made["key_groups", (name, g)] = Functional("key_group", (g,), None, ids)
    return made


def _small(ids: Tensor) -> Tensor:
    from probe_kernels.fused.problem import as_int32

    return as_int32(ids)


def _count(labels: Tensor) -> int:
    return max(int(labels.max()) + 1, 0) if labels.numel() else 0


def _take(out: Attended, answers: RowAnswers, names: tuple[Name, ...], want: Want) -> None:
    if answers.z is not None:
        out.z = answers.z[0]
    for name in ("entropy", "square", "top_p"):
        found = getattr(answers, name)
        if found is not None:
            setattr(out, name, found[0])
    if answers.top is not None:
        out.top_index = answers.top[0].long()
    if answers.table is not None:
        out.table = coarser(answers.table, want.table // plan.table_keys(want.table))
    for number, (name, key) in enumerate(names):
        if answers.masses is None:
            continue
        found = answers.masses[number, 0]
        if name == "distance":
            out.distance = found
        elif name == "key_groups":
            continue
        else:
            getattr(out, name)[key] = found
    _groups(out, answers, names, want)


def _groups(out: Attended, answers: RowAnswers, names: tuple[Name, ...], want: Want) -> None:
    for number, (name, key) in enumerate(names):
        if name != "key_groups" or answers.masses is None or not isinstance(key, tuple):
            continue
        labels, g = key
        if labels not in out.key_groups:
            found = answers.masses[number, 0]
            out.key_groups[labels] = found.new_zeros((*found.shape, _count(want.key_groups[labels])))
        out.key_groups[labels][..., g] = answers.masses[number, 0]


def _parts(problem: Problem, out: Attended, want: Want, lse: Tensor | None) -> None:
    """z of each group of keys alone: attention over the group, weighed by its share of the row's mass."""
    value = problem.scores.value
    for name, labels in want.key_groups.items():
        n = _count(labels)
        if not n and lse is not None:
            out.key_groups[name] = lse.new_zeros((*lse.shape, 0))
        if name not in want.parts or value is None or lse is None:
            continue
        found = lse.new_zeros((*lse.shape, n, value.shape[3]))
        for g in range(n):
            group = joined(_rows(problem.without(labels != g), RowLaunch(z=True, wide=True)))
            share = torch.exp(group.lse[0] - lse).masked_fill(group.lse[0] == -torch.inf, 0.0)
            if group.z is not None:
                found[..., g, :] = share[..., None] * group.z[0]
        out.parts[name] = found


def _columns(problem: Problem, out: Attended, want: Want, lse: Tensor | None) -> None:
    """Sums over queries: the column mass, bands of it, and groups of queries."""
    asked: dict[Name, Functional] = {}
    if want.column:
        asked["column", None] = Functional("whole")
    for lo, hi in want.bands:
        asked["bands", (lo, hi)] = Functional("band", (lo, hi))
    for name, labels in want.query_groups.items():
        for g in range(_count(labels)):
            asked["query_groups", (name, g)] = Functional("query_group", (g,), _small(labels), None)
    batch, heads, n_key = *problem.scores.query.shape[:2], problem.scores.key.shape[2]
    for name, labels in want.query_groups.items():
        out.query_groups[name] = labels.new_zeros((batch, heads, _count(labels), n_key), dtype=torch.float32)
    names = list(asked)
    for start in range(0, len(names), plan.COLUMN_FUNCTIONALS):
        some = names[start : start + plan.COLUMN_FUNCTIONALS]
        sums = problem.scores.query.new_zeros((len(some), batch, heads, n_key), dtype=torch.float32)
        for part in _pieces(problem):
            if lse is not None:
                sweep_columns(part, lse, [asked[name] for name in some], plan.column_tiles(problem), sums)
        for (name, key), found in zip(some, sums, strict=True):
            if name == "column":
                out.column = found
            elif name == "bands" and isinstance(key, tuple):
                out.bands[key] = found
            elif isinstance(key, tuple):
                out.query_groups[key[0]][:, :, key[1]] = found


def _counts(problem: Problem, out: Attended, want: Want) -> None:
    """What depends on the mask alone, from the same code as the torch path."""
    if not (want.visible or want.column or want.bands):
        return
    asked = Want(z=False, visible=want.visible, column=want.column, bands=want.bands)
    one = replace(
        problem.scores,
        query=problem.scores.query[:, :1],
        key=problem.scores.key[:, :1],
        value=None,
        sinks=None,
        bias=None,
        alibi=None,
    )
    ledger = Ledger(one, problem.ground, asked, torch.float32)
    for chunk in problem.ground.chunks(_WRITTEN_ROWS):
        over_queries.count(ledger, chunk)
    out.visible, out.seen_by, out.band_seen_by = (
        ledger.out.visible,
        ledger.out.seen_by,
        ledger.out.band_seen_by,
    )
