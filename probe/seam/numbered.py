"""A call's layout with positions that count real tokens, as sparse patterns are told of it."""

from dataclasses import replace

import torch
from jaxtyping import Int
from probe_kernels.mask import Mask, Predicate, Tile
from probe_kernels.types import Layout
from torch import Tensor

from probe.seam.call import AttentionCall

_FAR = 2**62


def numbered(call: AttentionCall) -> Layout:
    """The layout of a call in which token 0 is the prompt's first real one; the call's own mask hides what it hid.

    Left padding shifts storage positions; a pattern of the first four keys, or of blocks of 64, must not shift with
    it. Padding has positions that mean nothing. A mask with alternatives becomes one rule, so that a pattern with
    alternatives can be put on top. The call's own layout comes back where nothing of that is needed.
    """
    layout = call.layout
    query, key = _counted(call.query_index, layout.query_pos), _counted(call.key_index, layout.key_pos)
    moved = not (torch.equal(query, layout.query_pos) and torch.equal(key, layout.key_pos))
    unfilled = bool((call.key_index < 0).any()) and not _marked(call)
    if not moved and not unfilled:
        return replace(layout, mask=_joined(layout.mask)) if layout.mask.any_of else layout
    mask = layout.mask if layout.mask.relative else _as_stored(layout)
    return replace(layout, mask=_joined(mask), query_pos=query, key_pos=key, key_real=call.key_index >= 0)


def _marked(call: AttentionCall) -> bool:
    """Whether the layout itself says of every key without a token that it has none."""
    real = call.layout.key_real
    return real is not None and torch.equal(real.expand_as(call.key_index), call.key_index >= 0)


def _counted(index: Int[Tensor, "batch pos"], stored: Int[Tensor, "b pos"]) -> Int[Tensor, "b_or_batch pos"]:
    """Positions that equal `index` at real tokens, running on through padding at either end where they can."""
    off = stored - index
    low = off.masked_fill(index < 0, _FAR).amin(1, keepdim=True)
    high = off.masked_fill(index < 0, -_FAR).amax(1, keepdim=True)
    if not torch.equal(low, high):
        return index
    return stored if not bool(low.any()) else stored - low


def _joined(mask: Mask) -> Mask:
    """A mask with alternatives as one rule; any other as it is."""
    if not mask.any_of:
        return mask
    return Mask(
        (Predicate(" and ".join(mask.names), lambda tile: _shown(mask, tile), mask.reach, mask.full),)
    )


def _as_stored(layout: Layout) -> Mask:
    """A mask that still asks storage positions, whatever positions the layout is given."""

    def visible(tile: Tile) -> Tensor:
        stored = replace(
            tile,
            query_pos=layout.query_pos[:, tile.rows, None],
            key_pos=layout.key_pos[:, None, tile.keys],
        )
        return _shown(layout.mask, stored)

    return Mask((Predicate(" and ".join(layout.mask.names) or "all", visible),))


def _shown(mask: Mask, tile: Tile) -> Tensor:
    seen = mask.visible(tile)
    return torch.ones_like(tile.query_pos == tile.key_pos) if seen is None else seen
