"""The blocked path: chunk by chunk over the queries, whole rows, every wanted statistic in the same sweep."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from probe_kernels import by_heads, gradient, lanes, over_queries, tally
from probe_kernels.block import Block, Inputs
from probe_kernels.chunks import Ground
from probe_kernels.form import form
from probe_kernels.lane import Lane
from probe_kernels.ledger import Ledger
from probe_kernels.types import Attended, Edits, Layout, Scores, Want
from probe_kernels.values import add_parts, weigh

_BLOCK_NUMBERS = 2**21  # numbers in one block of the plain path: 8 MB in float32
_LANE_NUMBERS = 3 * 2**19  # numbers in one block of a lane
_LANE_ROWS = 128  # queries of a chunk at most: a causal chunk computes half its own square for nothing
_LANE_CHUNKS = 8  # chunks of a call at least, so that lanes can share it
_LANE_STACK = 64  # stacked rows of a chunk at least, however many keys: fewer make the products slow
_WORTH = 2**16  # smaller calls than this (per key head) are quicker as one batched product


def attend(
    scores: Scores, layout: Layout, want: Want, edits: Edits | None = None, *, n_lanes: int | None = None
) -> Attended:
    """Blocked attention with statistics; see `probe_kernels.attend`.

    `n_lanes` forces the plain path (0) or that many lanes; None chooses.
    """
    touched = () if edits is None else edits.heads(scores.query.shape[1])
    if edits is None or not touched:
        return _attend(scores, layout, want, None, n_lanes)
    if not _goes_apart(scores, want, len(touched)):
        return _attend(scores, layout, want, edits, n_lanes)
    whole = _attend(scores, layout, want, None, n_lanes)
    part = _attend(by_heads.of_heads(scores, touched), layout, want, by_heads.renumbered(edits, touched), 0)
    return by_heads.overwrite(whole, touched, part)


def _goes_apart(scores: Scores, want: Want, n_touched: int) -> bool:
    """Whether a sweep of the edited heads beside the quick one of all heads costs less than one plain sweep.

    Not where most heads are edited, nor where the quick way is closed anyway; and whoever wants rows sees every head
    of a block at once.
    """
    quick = _is_large(scores) or gradient.needed(scores)
    return quick and not want.rows and 2 * n_touched <= scores.query.shape[1]


def _attend(scores: Scores, layout: Layout, want: Want, edits: Edits | None, n_lanes: int | None) -> Attended:
    """One sweep over all heads of the scores."""
    z = None
    if edits is None and gradient.needed(scores):
        if want.z:
            ground = Ground(layout, scores.query.shape[2], scores.key.shape[2])
            z = gradient.z_with_gradient(Inputs.of(scores), ground, rows_at_once(scores))
        scores, want = gradient.detached(scores), replace(want, z=False)
    inputs = Inputs.of(scores)
    ground = Ground(layout, scores.query.shape[2], scores.key.shape[2])
    ledger = Ledger(scores, ground, want, inputs.dtype)
    if n_lanes is None:
        n_lanes = lanes.count() if edits is None and suits_lanes(inputs, want) else 0
    own = _in_lanes(inputs, ledger, n_lanes) if n_lanes else _plain(inputs, ledger, edits)
    out = ledger.close()
    out.z = own if z is None else z
    return out


def rows_at_once(scores: Scores) -> int:
    """Rows of a chunk of the plain path, so that its block stays small."""
    batch, heads = scores.query.shape[:2]
    return max(1, min(256, _BLOCK_NUMBERS // (batch * heads * scores.key.shape[2])))


def one_lane(scores: Scores, layout: Layout, want: Want) -> Attended:
    """The same sweep in the lane of the caller, who has made sure that every number is finite."""
    inputs = Inputs.of(scores)
    ledger = Ledger(scores, Ground(layout, scores.query.shape[2], scores.key.shape[2]), want, inputs.dtype)
    z = _room_for_z(inputs, want)
    cuts = ledger.ground.cuts(_LANE_NUMBERS // inputs.group, _most_rows(inputs), _least_rows(inputs))
    Lane(inputs, ledger, z, _LANE_NUMBERS).run(cuts)
    out = ledger.close()
    out.z = z
    return out


def suits_lanes(inputs: Inputs, want: Want) -> bool:
    """Whether lanes would be quicker and can be used: a large call on a CPU whose numbers are finite."""
    scores = inputs.scores
    if want.rows or not _is_large(scores):
        return False
    tensors = [scores.query, scores.key, *(() if scores.value is None else (scores.value,))]
    # NaN and infinity need the plain path's care not to leak from hidden keys.
    return all(bool(one.sum(dtype=inputs.dtype).isfinite()) for one in tensors)


def _is_large(scores: Scores) -> bool:
    """Whether lanes, which there are on a CPU, would be worth their start."""
    (_, heads, n_query, _), (_, kv_heads, n_key, _) = scores.query.shape, scores.key.shape
    worth = n_query >= 16 and heads // kv_heads * n_query * n_key >= _WORTH
    return worth and scores.query.device.type == "cpu"


def _in_lanes(inputs: Inputs, ledger: Ledger, n_lanes: int) -> Tensor | None:
    z = _room_for_z(inputs, ledger.want)
    most = min(_most_rows(inputs), max(16, inputs.scores.query.shape[2] // _LANE_CHUNKS // 16 * 16))
    cuts = ledger.ground.cuts(_LANE_NUMBERS // inputs.group, most, _least_rows(inputs))
    n_lanes = min(n_lanes, len(cuts))
    ledgers = [ledger, *(ledger.sibling() for _ in range(n_lanes - 1))]
    turns = [
        *range(n_lanes),
        *reversed(range(n_lanes)),
    ]  # back and forth: late chunks of a causal call are longer
    tasks = []
    for i, own in enumerate(ledgers):
        share = [cut for j, cut in enumerate(cuts) if turns[j % len(turns)] == i]
        tasks.append(partial(Lane(inputs, own, z, _LANE_NUMBERS).run, share))
    lanes.run(tasks)
    for sibling in ledgers[1:]:
        ledger.absorb(sibling)
    return z


def _room_for_z(inputs: Inputs, want: Want) -> Tensor | None:
    value = inputs.scores.value
    if not want.z or value is None:
        return None
    batch, heads, n, _ = inputs.scores.query.shape
    return value.new_empty(batch, n, heads, value.shape[-1]).transpose(1, 2)


def _most_rows(inputs: Inputs) -> int:
    return max(16, min(_LANE_ROWS, 4 * _LANE_ROWS // inputs.group) // 16 * 16)


def _least_rows(inputs: Inputs) -> int:
    return -(-_LANE_STACK // inputs.group)


def _plain(inputs: Inputs, ledger: Ledger, edits: Edits | None) -> Tensor | None:
    """Chunk after chunk, every head at once; with edits, z may be followed to whatever they hold."""
    followed = torch.is_grad_enabled() and ledger.want.z and edits is not None
    zs: list[Tensor | None] = []
    for rows in ledger.ground.runs(rows_at_once(inputs.scores)):
        step = partial(_step, inputs, ledger, rows, edits or Edits(), [])
        # Autograd would keep every block; it is given the rows to do again instead.
        zs.append(checkpoint(step, use_reentrant=False) if followed else step())
    parts = [z for z in zs if z is not None]
    if not parts or inputs.scores.value is None:
        return None
    return torch.cat(parts, dim=2).to(inputs.scores.value.dtype)


def _step(inputs: Inputs, ledger: Ledger, rows: slice, edits: Edits, done: list[slice]) -> Tensor | None:
    """The z of some rows; their statistics are folded in the first time only."""
    chunk = ledger.ground.chunk(rows, ledger.want.table or 1)
    block = form(inputs, ledger.ground, chunk, edits)
    if not done:
        done.append(rows)
        with torch.no_grad():
            over_queries.count(ledger, chunk)
            out_of_sight = _detached(block)
            for name in ledger.want.parts:
                add_parts(ledger, out_of_sight, inputs, name)
            tally.add(ledger, out_of_sight)
    return weigh(block, inputs) if ledger.want.z else None


def _detached(block: Block) -> Block:
    if not block.p.requires_grad:
        return block
    scores = None if block.scores is None else block.scores.detach()
    sink_mass = None if block.sink_mass is None else block.sink_mass.detach()
    return replace(
        block,
        p=block.p.detach(),
        lse=None if block.lse is None else block.lse.detach(),
        scores=scores,
        sink_mass=sink_mass,
    )
