"""A pattern that is only a mask as a visit, so that what it hides is skipped and not merely masked."""

from dataclasses import replace

import torch
from torch import Tensor

from probe_kernels.chunks import Ground
from probe_kernels.select.base import Selection
from probe_kernels.types import Layout
from probe_kernels.visit import Visit

_PAYS = (
    0.7  # share of the pairs in reach that a visit must not exceed to be quicker than the sweep over them all
)
_LARGE = 2**18  # pairs; smaller calls are one batched product anyway


def visits(selection: Selection, layout: Layout, rows: int = 128) -> Selection:
    """The selection with the keys that each `rows` queries may see listed as a visit, where that saves work.

    A window alone is skipped by the sweep itself, which cuts each chunk's keys to the stretch in reach; a visit is made
    where the kept keys lie apart (sinks and a window, powers of two, a grid), and list at most 0.7 of that stretch.
    Only whole lists of keys are told, so the mask stays. A selection that has a visit, or no mask, comes back as it is.
    """
    n_query, n_key = layout.query_pos.shape[1], layout.key_pos.shape[1]
    if selection.mask is None or selection.visit is not None or n_query * n_key < _LARGE:
        return selection
    narrowed = selection.narrowed(layout)
    ground = Ground(narrowed, n_query, n_key)
    kept, in_reach = [], 0
    for part in ground.runs(rows):
        lo, hi = _positions(layout, part)
        kept.append(_touched(narrowed, lo, hi))
        in_reach += _stretch(ground, lo, hi)
    listed = torch.stack(kept, dim=1)[:, None]
    if int(listed.sum(-1).amax(0).sum()) > _PAYS * in_reach:
        return selection
    return replace(selection, visit=Visit.of_keys(listed, rows))


def _touched(layout: Layout, lo: int, hi: int) -> Tensor:
    seen = layout.mask.touched(lo, hi, layout.key_pos)
    return seen if layout.key_real is None else seen & layout.key_real


def _stretch(ground: Ground, lo: int, hi: int) -> int:
    """How many keys the sweep would take for queries at lo…hi."""
    if ground.key_start is None:
        return ground.n_key
    first, last = ground.layout.mask.reach(lo, hi)
    return max(min(last - min(ground.key_start) + 1, ground.n_key) - max(first - max(ground.key_start), 0), 1)


def _positions(layout: Layout, rows: slice) -> tuple[int, int]:
    """Lowest and highest position of the real queries; where none is real, of all of them."""
    at = layout.query_pos[:, rows]
    if layout.query_real is not None and bool(layout.query_real[:, rows].any()):
        real = layout.query_real[:, rows]
        at = at.expand(max(at.shape[0], real.shape[0]), -1)[real.expand(max(at.shape[0], real.shape[0]), -1)]
    low, high = at.aminmax()
    return int(low), int(high)
