"""Blocked attention under a `Visit`: keys that a block of queries does not list are not even multiplied.

Blocks and heads with the same list become one dense call over the gathered keys; its rows are put in place, and its
sums over queries are added at the keys they belong to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from probe_kernels import gradient, lanes, sweep
from probe_kernels.block import Inputs
from probe_kernels.chunks import Ground
from probe_kernels.gathered import Lists, Unit, split
from probe_kernels.ledger import Ledger
from probe_kernels.placing import Places
from probe_kernels.types import Attended, Edits, Layout, Scores, Want
from probe_kernels.units import shared, units
from probe_kernels.visit import Visit


def attend(scores: Scores, layout: Layout, want: Want, visit: Visit, edits: Edits | None = None) -> Attended:
    """Attention of each block of queries over its listed keys; see `probe_kernels.attend`.

    Raises `ValueError` for edits and for `rows` of the pattern: both are given blocks as slices of storage, and the
    keys of a visit are no slice.
    """
    if edits is not None and edits.heads(scores.query.shape[1]):
        raise ValueError(
            "edits under a visit were asked; they are given slices of keys, and a visit's keys are none: "
            "hide keys with a mask or an edit of scores instead, or leave the edits out"
        )
    if want.rows:
        raise ValueError(
            f"rows {sorted(want.rows)} were wanted under a visit; they are given slices of keys, and a visit's keys "
            "are none: use a mask instead of the visit"
        )
    if gradient.needed(scores):
        z = _with_gradient(scores, layout, visit) if want.z else None
        out = _attend(gradient.detached(scores), layout, replace(want, z=False), visit)
        out.z = z
        return out
    return _attend(scores, layout, want, visit)


def _attend(scores: Scores, layout: Layout, want: Want, visit: Visit) -> Attended:
    inputs = Inputs.of(scores)
    lists, index = _lists(inputs, layout, visit)
    places = Places(Ledger(scores, Ground(layout, *_size(scores)), want, inputs.dtype), lists.of, visit)
    parts = list(units(lists, index, visit.rows, want.table))
    n_lanes = min(lanes.count(), len(parts)) if sweep.suits_lanes(inputs, want) else 0
    if not n_lanes:
        _run(parts, places, in_lane=False)
        return places.close()
    every = [places, *(places.sibling() for _ in range(n_lanes - 1))]
    lanes.run(
        [
            partial(_run, share, one, in_lane=True)
            for one, share in zip(every, _dealt(parts, n_lanes), strict=True)
        ]
    )
    for one in every[1:]:
        places.absorb(one)
    return places.close()


def _lists(inputs: Inputs, layout: Layout, visit: Visit) -> tuple[Lists, Tensor]:
    index, of = shared(visit, inputs.scores.query.shape[1], inputs.key.shape[1])
    return Lists.over(inputs, layout, of), index


def _size(scores: Scores) -> tuple[int, int]:
    return scores.query.shape[2], scores.key.shape[2]


def _dealt(parts: Sequence[Unit], n_lanes: int) -> Iterator[list[Unit]]:
    """The units of each lane, dealt back and forth: late blocks of a causal call list more keys."""
    turns = [*range(n_lanes), *reversed(range(n_lanes))]
    for lane in range(n_lanes):
        yield [part for number, part in enumerate(parts) if turns[number % len(turns)] == lane]


def _run(parts: Sequence[Unit], places: Places, *, in_lane: bool) -> None:
    for part in parts:
        scores, layout, want = part.scores(), part.layout(), part.want(places.want)
        places.put(
            part,
            sweep.one_lane(scores, layout, want)
            if in_lane
            else sweep.attend(scores, layout, want, n_lanes=0),
        )


def _with_gradient(scores: Scores, layout: Layout, visit: Visit) -> Tensor:
    """The z ``[B, H, Q, Dv]`` in the value's dtype; what is gathered is gathered again in the backward pass."""
    if scores.value is None:
        raise ValueError("z was wanted, but the scores carry no value; give a value or Want(z=False)")
    lists, index = _lists(Inputs.of(scores), layout, visit)
    batch, heads, n_query, _ = scores.query.shape
    z = scores.value.new_zeros(batch, lists.of, heads // lists.of, n_query, scores.value.shape[3])
    for part in units(lists, index, visit.rows, 0):
        found = checkpoint(partial(_z, part), use_reentrant=False)
        if found is not None:
            z[:, part.pick, :, part.rows] = split(found, 0, len(part.pick)).to(z.dtype)
    return z.flatten(1, 2)


def _z(part: Unit) -> Tensor | None:
    return sweep.attend(part.scores(), part.layout(), Want()).z
