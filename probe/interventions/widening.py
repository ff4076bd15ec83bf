"""Let chosen heads and rows see keys that the model's own mask hides; every other row keeps the model's mask.

A sweep has one mask for all heads. So an intervention's ``call`` gives the layer a wider mask (`widen`), and its
``edits`` hide again, head by head, what nobody opened for that head (`rehide`). Edits of scores see each head's own
view of the wider mask (`hidden_again`), whatever the order of the list.

>>> # def call(self, call): return widen(call, causal(), heads, rows)
>>> # def edits(self, call): return joined(rehide(call), edit_scores(...))

Statistics that count keys without asking heads (visible keys of a row, rows that see a key, the first visible keys)
are counted on the wider mask, in layers that were widened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from probe_kernels.chunks import Ground
from probe_kernels.mask import Mask, Predicate, Span, Tile
from probe_kernels.types import BlockEdit, Edits, Layout
from torch import Tensor

from probe.seam.call import AttentionCall


@dataclass(frozen=True)
class Opening:
    """Keys that some heads and rows see beside those of the model's mask; None = every head, every row."""

    visible: Predicate
    heads: tuple[int, ...] | None
    rows: Bool[Tensor, "batch query_pos"] | None


@dataclass(frozen=True)
class Wider(Layout):
    """A layout whose mask is wider than the model's own, and what was opened for whom."""

    own: Layout | None = None
    openings: tuple[Opening, ...] = ()


def widen(
    call: AttentionCall,
    visible: Predicate,
    heads: tuple[int, ...] | None = None,
    rows: Bool[Tensor, "batch query_pos"] | None = None,
) -> AttentionCall:
    """The call with a mask that shows what it showed and, to these heads and rows, also what `visible` shows.

    Padding stays hidden, and so do slots of a static cache that no token fills yet. Positions in `visible` are those
    of the layout (storage, padding included). Whoever widens gives `rehide(call)` among its edits of the same call;
    keys that a sliding cache has dropped are gone, and no mask brings them back.

    Args:
        call: The call of one layer; it is not changed.
        visible: What else shall be seen; its `reach` keeps far keys out of the sweep.
        heads: Query heads that see it; None = every head.
        rows: Query rows that see it; None = every row.
    """
    layout = call.layout
    if call.place.tower == "decoder":
        visible = _filled(visible, layout.query_pos)
    opened = Opening(visible, heads, rows)
    shared = {one.name: getattr(layout, one.name) for one in fields(Layout)}
    shared["mask"] = Mask((_either(layout.mask, visible),))
    if isinstance(layout, Wider):
        return replace(call, layout=Wider(**shared, own=layout.own, openings=(*layout.openings, opened)))
    return replace(call, layout=Wider(**shared, own=layout, openings=(opened,)))


def rehide(call: AttentionCall) -> Edits:
    """Hide from every head what neither the model's own mask nor an opening shows to it; nothing if all see all."""
    layout = call.layout
    if not isinstance(layout, Wider):
        return Edits()
    if len(layout.openings) == 1 and layout.openings[0].heads is None and layout.openings[0].rows is None:
        return Edits()
    heads = tuple(range(call.n_heads))
    return Edits(scores=(BlockEdit(lambda s, rows, keys: hidden_again(call, heads, s, rows, keys)),))


def hidden_again(
    call: AttentionCall,
    heads: Sequence[int],
    block: Float[Tensor, "batch head rows keys"],
    rows: slice,
    keys: slice,
) -> Float[Tensor, "batch head rows keys"]:
    """Scores of some heads with -inf where the head does not see the key; the same block where nothing was widened."""
    layout = call.layout
    if not isinstance(layout, Wider):
        return block
    tile = tile_of(layout, rows, keys)
    seen = own_mask(call, rows, keys)[:, None].repeat(1, len(heads), 1, 1)
    for opening in layout.openings:
        more = opening.visible.visible(tile)
        if opening.rows is not None:
            more = more & opening.rows[:, rows, None]
        chosen = [i for i, head in enumerate(heads) if opening.heads is None or head in opening.heads]
        if chosen:
            seen[:, chosen] |= more[:, None]
    return block.masked_fill(~seen, float("-inf"))


def own_mask(call: AttentionCall, rows: slice, keys: slice) -> Bool[Tensor, "batch rows keys"]:
    """Which keys the model's own mask shows to each row, padding hidden, whatever was widened."""
    layout = call.layout
    if isinstance(layout, Wider) and layout.own is not None:
        layout = layout.own
    seen = Ground(layout, *call.size[1:]).tile(rows, keys)
    shape = (call.size[0], rows.stop - rows.start, keys.stop - keys.start)
    if seen is None:
        return torch.ones(shape, dtype=torch.bool, device=layout.key_pos.device)
    return seen.expand(shape)


def tile_of(layout: Layout, rows: slice, keys: slice) -> Tile:
    """The coordinates of one tile of a layout, as predicates are asked with them."""
    return Tile(
        layout.query_pos[:, rows, None],
        layout.key_pos[:, None, keys],
        None if layout.query_segment is None else layout.query_segment[:, rows, None],
        None if layout.key_segment is None else layout.key_segment[:, None, keys],
        rows,
        keys,
    )


def joined(*edits: Edits) -> Edits:
    """Several edits as one, in order."""
    return Edits(
        tuple(one for each in edits for one in each.scores),
        tuple(one for each in edits for one in each.probs),
    )


def _filled(visible: Predicate, query_pos: Tensor) -> Predicate:
    """The predicate without keys behind the last token, which are empty slots of a static cache."""
    last = query_pos.amax(-1)[:, None, None]
    return replace(visible, visible=lambda tile: visible.visible(tile) & (tile.key_pos <= last), full=None)


def _either(own: Mask, visible: Predicate) -> Predicate:
    """What the mask or the predicate shows."""

    def seen(tile: Tile) -> Tensor:
        first = own.visible(tile)
        more = visible.visible(tile)
        return torch.ones_like(more) if first is None else first | more

    def reach(lo: int, hi: int) -> Span:
        if visible.reach is None:
            return None, None
        (a, b), (c, d) = own.reach(lo, hi), visible.reach(lo, hi)
        return None if c is None else min(a, c), None if d is None else max(b, d)

    def full(lo: int, hi: int) -> Span:
        return own.full(lo, hi)

    names = " and ".join(own.names) or "every key"
    return Predicate(f"{names}, or {visible.name}", seen, reach, full)
