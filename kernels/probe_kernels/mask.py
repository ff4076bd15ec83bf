"""Which keys a query may see: predicates over logical positions and segments, combined by AND and OR.

A mask is never a tensor here. Each predicate answers for one tile of (query, key) pairs at a time, so an arbitrary
mask costs O(tile) memory. Positions are logical (after caches, windows and permutations), never storage indices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Span = tuple[int | None, int | None]  # first and last position; None = unbounded
_FAR = 2**62
_NOWHERE = (_FAR, -_FAR)


@dataclass(frozen=True)
class Tile:
    """The coordinates of one tile of the pattern: rows are queries, columns are keys.

    Every field broadcasts to ``[batch, rows, keys]``. Segments are None where the layout carries none.
    """

    query_pos: Tensor  # [b, rows, 1]
    key_pos: Tensor  # [b, 1, keys]
    query_segment: Tensor | None
    key_segment: Tensor | None
    rows: slice  # storage rows of this tile, for predicates that index a user's tensor
    keys: slice


@dataclass(frozen=True)
class Twin:
    """A rule in a form that does not call torch: its kind, its numbers, and a table where it looks one up."""

    kind: str
    numbers: tuple[int, ...] = ()
    table: Tensor | None = None


@dataclass(frozen=True)
class Predicate:
    """One rule: ``visible(tile) -> bool [b, rows, keys]``.

    ``reach(lo, hi)`` optionally bounds the key positions that queries at positions lo…hi can see, as ``(first, last)``
    (None = unbounded), so that whole tiles are skipped without evaluating the rule. ``full(lo, hi)`` optionally
    bounds the key positions that every query at lo…hi sees, so that the rule is evaluated at the edges only.
    `relative` says that the rule depends on query_pos - key_pos alone, so that a tile serves all others alike.
    ``touch(lo, hi, key_pos)`` optionally tells key by key (bool like key_pos) which keys queries at lo…hi may see,
    where those lie apart and `reach` says little.
    """

    name: str
    visible: Callable[[Tile], Tensor]
    reach: Callable[[int, int], Span] | None = None
    full: Callable[[int, int], Span] | None = None
    relative: bool = False
    twin: Twin | None = None
    touch: Callable[[int, int, Tensor], Tensor] | None = None

    def touched(self, lo: int, hi: int, key_pos: Tensor) -> Tensor:
        """Bool like `key_pos`: the keys that some query at positions lo…hi may see; no other is seen."""
        if self.touch is not None:
            return self.touch(lo, hi, key_pos)
        first_key, last_key = _span(self.reach, lo, hi, (-_FAR, _FAR))
        return (key_pos >= first_key) & (key_pos <= last_key)

    def __repr__(self) -> str:
        return self.name


def causal() -> Predicate:
    """Keys at or before the query."""
    return Predicate(
        "causal",
        lambda t: t.key_pos <= t.query_pos,
        lambda _lo, hi: (None, hi),
        lambda lo, _hi: (None, lo),
        relative=True,
        twin=Twin("causal"),
    )


def within(window: int) -> Predicate:
    """Keys less than `window` positions behind the query (the query itself included), as Hugging Face counts it."""
    return Predicate(
        f"within({window})",
        lambda t: t.query_pos - t.key_pos < window,
        lambda lo, _hi: (lo - window + 1, None),
        lambda _lo, hi: (hi - window + 1, None),
        relative=True,
        twin=Twin("within", (window,)),
    )


def near(window: int) -> Predicate:
    """Keys at most `window` positions away, on either side of the query."""
    return Predicate(
        f"near({window})",
        lambda t: (t.query_pos - t.key_pos).abs() <= window,
        lambda lo, hi: (lo - window, hi + window),
        lambda lo, hi: (hi - window, lo + window),
        relative=True,
        twin=Twin("near", (window,)),
    )


def every(stride: int) -> Predicate:
    """Keys a multiple of `stride` positions away, the query itself among them; raises `ValueError` below 1."""
    if stride < 1:
        raise ValueError(f"every({stride}) was asked; give a stride of at least 1")
    return Predicate(
        f"every({stride})",
        lambda t: (t.query_pos - t.key_pos) % stride == 0,
        relative=True,
        twin=Twin("every", (stride,)),
    )


def same_chunk(size: int) -> Predicate:
    """Keys whose position falls in the query's block of `size` positions (Llama-4 chunked attention)."""
    return Predicate(
        f"same_chunk({size})",
        lambda t: (
            torch.div(t.key_pos, size, rounding_mode="floor")
            == torch.div(t.query_pos, size, rounding_mode="floor")
        ),
        lambda lo, hi: (lo // size * size, hi // size * size + size - 1),
        lambda lo, hi: (hi // size * size, lo // size * size + size - 1),
        twin=Twin("same_chunk", (size,)),
    )


def same_segment() -> Predicate:
    """Keys of the query's own segment; segment -1 belongs to no segment (packed sequences)."""

    def visible(t: Tile) -> Tensor:
        if t.query_segment is None or t.key_segment is None:
            raise ValueError(
                "same_segment() needs a Layout with query_segment and key_segment; none were given"
            )
        return (t.key_segment == t.query_segment) & (t.key_segment >= 0)

    return Predicate("same_segment", visible, twin=Twin("same_segment"))


def adjacent(table: Tensor) -> Predicate:
    """Keys of segments that the query's segment is shown: bool ``table [query segment, key segment]``.

    A segment that the table does not have, -1 among them, sees nothing and is seen by nobody.

    Raises:
        ValueError: a table that is not square.
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not table.numel():
        raise ValueError(
            f"adjacent() was given a table of shape {tuple(table.shape)}; give one row and one column per segment"
        )
    shown, size = table.bool(), table.shape[0]

    def visible(t: Tile) -> Tensor:
        if t.query_segment is None or t.key_segment is None:
            raise ValueError("adjacent() needs a Layout with query_segment and key_segment; none were given")
        a, b = t.query_segment.long(), t.key_segment.long()
        known = (a >= 0) & (a < size) & (b >= 0) & (b < size)
        return known & shown.to(a.device)[a.clamp(0, size - 1), b.clamp(0, size - 1)]

    return Predicate("adjacent", visible, twin=Twin("adjacent", (size,), shown))


def first(count: int) -> Predicate:
    """Keys at positions below `count` (a prefix; with `causal` in any_of: prefix-bidirectional attention)."""
    return Predicate(
        f"first({count})",
        lambda t: t.key_pos < count,
        lambda _lo, _hi: (None, count - 1),
        lambda _lo, _hi: (None, count - 1),
        twin=Twin("first", (count,)),
    )


def at_every(stride: int) -> Predicate:
    """Keys at positions that are a multiple of `stride`, from any query; raises `ValueError` below 1."""
    if stride < 1:
        raise ValueError(f"at_every({stride}) was asked; give a stride of at least 1")
    return Predicate(
        f"at_every({stride})",
        lambda t: (t.key_pos % stride == 0) & (t.query_pos == t.query_pos),
        twin=Twin("at_every", (stride,)),
        touch=lambda _lo, _hi, key_pos: key_pos % stride == 0,
    )


def power_of_two(block: int = 1, local: int = 1) -> Predicate:
    """Keys whose block of `block` positions is fewer than `local` blocks, or a power of two of them, from the query's.

    Distances count on both sides, the query's own block is 0 away. PowerAttention (arXiv 2503.03588). Raises
    `ValueError` below 1.
    """
    if block < 1 or local < 1:
        raise ValueError(
            f"power_of_two({block}, {local}) was asked; give blocks of at least 1, and at least 1 of them"
        )

    def visible(t: Tile) -> Tensor:
        far = (_cell(t.query_pos, block) - _cell(t.key_pos, block)).abs()
        return (far < local) | ((far & (far - 1)) == 0)

    def touch(lo: int, hi: int, key_pos: Tensor) -> Tensor:
        at, low, high = _cell(key_pos, block), lo // block, hi // block
        seen = (at > low - local) & (at < high + local)
        for step in (2**power for power in range(62)):
            if step > max(high - int(at.min()), int(at.max()) - low):
                break
            seen = (
                seen | ((at >= low - step) & (at <= high - step)) | ((at >= low + step) & (at <= high + step))
            )
        return seen

    return Predicate(
        f"power_of_two({block}, {local})", visible, twin=Twin("power_of_two", (block, local)), touch=touch
    )


def _cell(positions: Tensor, block: int) -> Tensor:
    return torch.div(positions, block, rounding_mode="floor")


def dense(visible: Tensor) -> Predicate:
    """An arbitrary boolean mask the caller already holds, ``[batch or 1, n_query, n_key]``, True = visible."""
    return Predicate("dense", lambda t: visible[:, t.rows, t.keys])


def rule(name: str, visible: Callable[[Tile], Tensor]) -> Predicate:
    """Any other rule, evaluated tile by tile."""
    return Predicate(name, visible)


@dataclass(frozen=True)
class Mask:
    """AND of `all_of`, OR-ed with nothing unless `any_of` is given: all(all_of) and (any(any_of) or no any_of).

    ``Mask((causal(),))`` is plain causal attention, ``Mask()`` sees everything,
    ``Mask((), (causal(), first(4)))`` is prefix-bidirectional.
    """

    all_of: tuple[Predicate, ...] = ()
    any_of: tuple[Predicate, ...] = ()

    def visible(self, tile: Tile) -> Tensor | None:
        """True where the query sees the key, ``[b, rows, keys]``; None when the mask hides nothing."""
        seen: Tensor | None = None
        for predicate in self.all_of:
            one = predicate.visible(tile)
            seen = one if seen is None else seen & one
        if self.any_of:
            some = self.any_of[0].visible(tile)
            for predicate in self.any_of[1:]:
                some = some | predicate.visible(tile)
            seen = some if seen is None else seen & some
        return seen

    def reach(self, lo: int, hi: int) -> tuple[int, int]:
        """A range of key positions outside which queries at positions lo…hi see nothing."""
        span = (-_FAR, _FAR)
        for predicate in self.all_of:
            span = _meet(span, _span(predicate.reach, lo, hi, (-_FAR, _FAR)))
        if self.any_of:
            each = [_span(predicate.reach, lo, hi, (-_FAR, _FAR)) for predicate in self.any_of]
            span = _meet(span, (min(one[0] for one in each), max(one[1] for one in each)))
        return span

    def full(self, lo: int, hi: int) -> tuple[int, int]:
        """A range of key positions (first > last: empty) that every query at positions lo…hi sees."""
        span = (-_FAR, _FAR)
        for predicate in self.all_of:
            span = _meet(span, _span(predicate.full, lo, hi, _NOWHERE))
        if self.any_of:
            each = [_span(predicate.full, lo, hi, _NOWHERE) for predicate in self.any_of]
            span = _meet(span, max(each, key=lambda one: one[1] - one[0]))
        return span

    def touched(self, lo: int, hi: int, key_pos: Tensor) -> Tensor:
        """Bool like `key_pos`: the keys that some query at positions lo…hi may see; no other is seen."""
        seen = torch.ones_like(key_pos, dtype=torch.bool)
        for predicate in self.all_of:
            seen = seen & predicate.touched(lo, hi, key_pos)
        if self.any_of:
            some = [predicate.touched(lo, hi, key_pos) for predicate in self.any_of]
            seen = seen & torch.stack(some).any(0)
        return seen

    @property
    def relative(self) -> bool:
        """Whether every predicate depends on query position less key position alone."""
        return all(predicate.relative for predicate in (*self.all_of, *self.any_of))

    @property
    def names(self) -> tuple[str, ...]:
        """The predicates by name, for reports and for choosing a fast path."""
        either = ("any(" + ", ".join(p.name for p in self.any_of) + ")",) if self.any_of else ()
        return tuple(p.name for p in self.all_of) + either


def _span(
    bound: Callable[[int, int], Span] | None, lo: int, hi: int, unknown: tuple[int, int]
) -> tuple[int, int]:
    if bound is None:
        return unknown
    first_key, last_key = bound(lo, hi)
    return (-_FAR if first_key is None else first_key, _FAR if last_key is None else last_key)


def _meet(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return max(a[0], b[0]), min(a[1], b[1])
