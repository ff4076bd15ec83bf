"""Cuts the queries into chunks, and knows for each chunk which keys it can see and where the mask must be asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor

from probe_kernels.mask import Tile
from probe_kernels.types import Layout

T = TypeVar("T")

HIDDEN = -1e30  # a score at or below it counts as hidden; finite, so that 0 · HIDDEN is 0 and not NaN
_SMALL = 2**17  # pairs of a chunk that is kept with its layout
_BLOCK = 64  # columns per block when a general mask is searched for fully visible stretches


@dataclass(frozen=True)
class Edge:
    """A stretch of keys that some row of a chunk does not see: ``visible`` is bool ``[b, rows, keys]``."""

    keys: slice
    visible: Tensor

    @cached_property
    def _rows(self) -> Tensor:
        """`visible` without repeated rows: a view that is one row, expanded, is looked at once."""
        return self.visible[:, :1] if self.visible.stride(1) == 0 else self.visible

    @cached_property
    def hidden(self) -> Tensor:
        """The complement of `visible`."""
        return (~self._rows).expand_as(self.visible)

    @cached_property
    def hidden_per_row(self) -> Tensor:
        """How many of these keys each row does not see, ``[b, rows]``."""
        return (~self._rows).sum(-1).expand(self.visible.shape[:2])

    @cached_property
    def hidden_per_key(self) -> Tensor:
        """How many rows do not see each key, ``[b, keys]``."""
        return (~self._rows).sum(1) * (self.visible.shape[1] // self._rows.shape[1])

    @cached_property
    def wall(self) -> Tensor:
        """HIDDEN where hidden and 0 elsewhere, float32 ``[b, rows, keys]``, to be added to scores."""
        return (~self._rows).to(torch.float32).mul_(HIDDEN).expand(self.visible.shape)

    def at(self, keys: slice) -> "Edge":
        """The same edge at other keys; what was computed of it is kept."""
        if keys == self.keys:
            return self
        other = Edge(keys, self.visible)
        other.__dict__.update({name: one for name, one in vars(self).items() if name != "keys"})
        return other


@dataclass(frozen=True)
class Chunk:
    """Rows, the storage range of keys that any of them may see, and its edges; other keys are seen by every row."""

    rows: slice
    keys: slice
    edges: tuple[Edge, ...]
    device: torch.device = field(default=torch.device("cpu"), compare=False)
    memo: dict[object, object] = field(default_factory=dict, compare=False)

    @property
    def n_rows(self) -> int:
        """Number of queries."""
        return int(self.rows.stop - self.rows.start)

    @property
    def n_keys(self) -> int:
        """Number of keys in range."""
        return int(self.keys.stop - self.keys.start)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """A constant of this chunk, made for its first block and kept for the other heads."""
        if key not in self.memo:
            self.memo[key] = make()
        return cast(T, self.memo[key])

    def storage(self, columns: slice) -> slice:
        """The keys of some columns of the block."""
        return slice(self.keys.start + columns.start, self.keys.start + columns.stop)

    def local(self, edge: Edge) -> slice:
        """The columns of an edge within the chunk's block."""
        return slice(edge.keys.start - self.keys.start, edge.keys.stop - self.keys.start)

    def visible(self, columns: slice) -> Tensor:
        """Bool ``[b, rows, columns]`` for columns of the block, put together from the edges."""
        first, last = columns.start, columns.stop
        batch = max((edge.visible.shape[0] for edge in self.edges), default=1)
        seen = torch.ones(batch, self.n_rows, last - first, dtype=torch.bool, device=self.device)
        for edge in self.edges:
            at = self.local(edge)
            lo, hi = max(at.start, first), min(at.stop, last)
            if lo < hi:
                seen[:, :, lo - first : hi - first] = edge.visible[:, :, lo - at.start : hi - at.start]
        return seen

    def count_visible(self) -> Tensor:
        """Number of visible keys, int64 ``[b, rows]``."""

        def make() -> Tensor:
            count = torch.full((1, self.n_rows), self.n_keys, device=self.device)
            for edge in self.edges:
                count = count - edge.hidden_per_row
            return count

        return self.once("count", make)

    @property
    def may_be_empty(self) -> bool:
        """Whether some row sees no key at all."""
        return bool(self.edges) and self.once("empty", lambda: int(self.count_visible().min()) == 0)


@dataclass(frozen=True)
class Facts:
    """What is found by looking at a layout's tensors; kept with the layout, as every layer of a forward shares it."""

    key_start: list[int] | None
    query_start: list[int] | None
    keys_padded: bool
    queries_padded: bool
    # The last part of a key says whether inference mode made the tensors: those are no use to autograd.
    tiles: dict[tuple[int, int, int, bool], Edge | None] = field(default_factory=dict)
    whole: dict[tuple[int, int, int, bool], Chunk] = field(
        default_factory=dict
    )  # small calls that are one chunk

    @staticmethod
    def of(layout: Layout) -> "Facts":
        """The facts of a layout, found on the first call."""
        kept = vars(layout)
        if "_facts" not in kept:
            key_real, query_real = layout.key_real, layout.query_real
            kept["_facts"] = Facts(
                _run(layout.key_pos),
                _run(layout.query_pos),
                key_real is not None and not bool(key_real.all()),
                query_real is not None and not bool(query_real.all()),
            )
        return cast(Facts, kept["_facts"])


class Ground:
    """How a layout lies: how positions run, whether any key is padding, and what each chunk of queries can see."""

    def __init__(self, layout: Layout, n_query: int, n_key: int) -> None:
        self.layout = layout
        self.n_query = n_query
        self.n_key = n_key
        self._facts = facts = Facts.of(layout)
        self.key_start = facts.key_start
        self.query_start = facts.query_start
        self.key_real = layout.key_real if facts.keys_padded else None
        self.query_real = layout.query_real if facts.queries_padded else None

    @cached_property
    def shift(self) -> int | None:
        """Storage index of the key at the first query's position, where positions run alike in every batch row."""
        if self.key_start is None or self.query_start is None:
            return None
        shifts = {q - k for q in self.query_start for k in self.key_start}
        if len(self.query_start) == len(self.key_start):
            shifts = {q - k for q, k in zip(self.query_start, self.key_start, strict=True)}
        return shifts.pop() if len(shifts) == 1 else None

    @cached_property
    def ascending(self) -> bool:
        """Whether keys lie in order of position, no two of a sequence at the same one."""
        return self.key_start is not None or bool((self.layout.key_pos.diff(dim=1) > 0).all())

    def chunks(self, size: int, align: int = 1) -> Iterator[Chunk]:
        """Chunks of `size` rows in order; the key range starts at a multiple of `align`."""
        for rows in self.runs(size):
            yield self.chunk(rows, align)

    def runs(self, size: int) -> Iterator[slice]:
        """The rows of chunks of `size` rows, in order."""
        for start in range(0, self.n_query, size):
            yield slice(start, min(start + size, self.n_query))

    def cuts(self, area: int, most: int, least: int) -> list[slice]:
        """Chunks of `least` to `most` rows, so that rows · keys in reach stays below `area` where that can be."""
        cuts, start = [], 0
        while start < self.n_query:
            size = min(most, self.n_query - start)
            width = self._width(slice(start, start + size))
            fit = area // width
            if fit < size:
                size = min(size, max(least, fit // 8 * 8 or fit))
            cuts.append(slice(start, start + size))
            start += size
        return cuts

    def _width(self, rows: slice) -> int:
        if self.key_start is None:
            return self.n_key
        first, last = self.layout.mask.reach(*self.query_range(rows))
        lo, hi = max(first - max(self.key_start), 0), min(last - min(self.key_start) + 1, self.n_key)
        return max(hi - lo, 1)

    def chunk(self, rows: slice, align: int = 1) -> Chunk:
        """The chunk of these rows; where a small call is all one chunk, as in decoding, the next layer's as well."""
        size = rows.stop - rows.start
        if size < self.n_query or size * self.n_key > _SMALL:
            return self._chunk(rows, align)
        whole, key = self._facts.whole, (self.n_query, self.n_key, align, torch.is_inference_mode_enabled())
        if key not in whole:
            whole[key] = self._chunk(rows, align)
        return whole[key]

    def _chunk(self, rows: slice, align: int) -> Chunk:
        if self.key_start is not None and self.key_real is None:
            return self._by_position(rows, align)
        return self._by_search(rows, slice(0, self.n_key), align)

    def tile(self, rows: slice, keys: slice) -> Tensor | None:
        """Bool ``[b, rows, keys]``: mask and padding together; None when nothing is hidden."""
        layout = self.layout
        seen = layout.mask.visible(
            Tile(
                layout.query_pos[:, rows, None],
                layout.key_pos[:, None, keys],
                None if layout.query_segment is None else layout.query_segment[:, rows, None],
                None if layout.key_segment is None else layout.key_segment[:, None, keys],
                rows,
                keys,
            )
        )
        if self.key_real is not None:
            real = self.key_real[:, None, keys]
            seen = real.expand(-1, rows.stop - rows.start, -1) if seen is None else seen & real
        if seen is None:
            return None
        return seen.expand(seen.shape[0], rows.stop - rows.start, keys.stop - keys.start)

    def _by_position(self, rows: slice, align: int) -> Chunk:
        starts = self.key_start or []
        lo, hi = self.query_range(rows)
        first, last = self.layout.mask.reach(lo, hi)
        k0 = min(max(first - max(starts), 0), self.n_key - 1) // align * align
        k1 = max(min(last - min(starts) + 1, self.n_key), k0 + 1)
        first, last = self.layout.mask.full(lo, hi)
        f0 = min(max(first - min(starts), k0), k1)
        f1 = max(min(last - max(starts) + 1, k1), f0)
        if f0 == f1:
            return self._by_search(rows, slice(k0, k1), align)
        edges = (self._edge(rows, part) for part in (slice(k0, f0), slice(f1, k1)) if part.start < part.stop)
        return self._made(rows, slice(k0, k1), tuple(edge for edge in edges if edge is not None))

    def _made(self, rows: slice, keys: slice, edges: tuple[Edge, ...]) -> Chunk:
        return Chunk(rows, keys, edges, self.layout.key_pos.device)

    def _certain(self, rows: slice, keys: slice) -> tuple[slice, Tensor, Tensor] | None:
        """What positions alone tell: the keys in reach, which of them every row sees, and which would but for padding.

        None where they tell nothing.
        """
        mask, pos = self.layout.mask, self.layout.key_pos[:, keys]
        lo, hi = self.query_range(rows)
        (first, last), (near, far) = mask.full(lo, hi), mask.reach(lo, hi)
        if first > last:
            return None
        every, some = (pos >= first) & (pos <= last), (pos >= near) & (pos <= far)
        inside = every
        if self.key_real is not None:
            real = self.key_real[:, keys]
            every, some, inside = every & real, some & real, every | ~real
        every, inside, found = every.all(0), inside.all(0), some.any(0).nonzero()
        if found.numel() == 0 or not bool(every.any()):
            return None
        k0, k1 = int(found[0]), int(found[-1]) + 1
        return slice(keys.start + k0, keys.start + k1), every[k0:k1], inside[k0:k1]

    def _beside(self, rows: slice, keys: slice, every: Tensor, inside: Tensor, align: int) -> Chunk:
        """A chunk whose mask is asked only where positions leave it open."""
        k0 = keys.start // align * align
        if k0 < keys.start:
            every, inside = (
                torch.nn.functional.pad(one, (keys.start - k0, 0), value=False) for one in (every, inside)
            )
        keys = slice(k0, keys.stop)
        edges = []
        for part in _stretches(every, keys):
            for known, piece in _runs_of(inside[part.start - k0 : part.stop - k0], part):
                seen: Tensor | None = None
                if known and self.key_real is not None:
                    seen = self.key_real[:, None, piece].expand(-1, rows.stop - rows.start, -1)
                else:
                    seen = self.tile(rows, piece)
                if seen is not None and not bool(seen[:, :1].all() if seen.stride(1) == 0 else seen.all()):
                    edges.append(Edge(piece, seen))
        return self._made(rows, keys, tuple(edges))

    def _edge(self, rows: slice, keys: slice) -> Edge | None:
        """The edge at these keys; where only relative positions matter, a tile of the same place serves again."""
        inference = torch.is_inference_mode_enabled()
        same = (rows.stop - rows.start, keys.stop - keys.start, keys.start - rows.start, inference)
        again = self.layout.mask.relative and self.query_start is not None
        if not again or same not in self._facts.tiles:
            seen = self.tile(rows, keys)
            edge = None if seen is None or bool(seen.all()) else Edge(keys, seen)
            if not again:
                return edge
            self._facts.tiles[same] = edge
        found = self._facts.tiles[same]
        return None if found is None else found.at(keys)

    def query_range(self, rows: slice) -> tuple[int, int]:
        """The lowest and highest position of some queries, over the whole batch."""
        if self.query_start is not None:
            return min(self.query_start) + rows.start, max(self.query_start) + rows.stop - 1
        low, high = torch.aminmax(self.layout.query_pos[:, rows])
        return int(low), int(high)

    def _by_search(self, rows: slice, keys: slice, align: int) -> Chunk:
        sure = self._certain(rows, keys)
        if sure is not None:
            return self._beside(rows, *sure, align)
        seen = self.tile(rows, keys)
        if seen is None:
            return self._made(rows, keys, ())
        some = seen.flatten(0, 1).any(0).nonzero()
        if some.numel() == 0:
            keys = slice(keys.start, keys.start + 1)
            return self._made(rows, keys, (Edge(keys, seen[:, :, :1]),))
        k0 = (keys.start + int(some[0])) // align * align
        seen = seen[:, :, k0 - keys.start : int(some[-1]) + 1]
        found = slice(k0, keys.start + int(some[-1]) + 1)
        return self._made(rows, found, tuple(_edges(seen, found)))


def _edges(seen: Tensor, keys: slice) -> Iterator[Edge]:
    """Neighbouring blocks of columns that are not fully visible, joined."""
    for part in _stretches(seen.flatten(0, 1).all(0), keys):
        yield Edge(part, seen[:, :, part.start - keys.start : part.stop - keys.start])


def _stretches(every: Tensor, keys: slice) -> Iterator[slice]:
    """Neighbouring blocks of keys, joined, in which not `every` one (bool ``[n]``) is seen by all rows."""
    n = keys.stop - keys.start
    if n % _BLOCK:
        every = torch.nn.functional.pad(every, (0, _BLOCK - n % _BLOCK), value=True)
    flags = every.view(-1, _BLOCK).all(1).tolist()
    start = None
    for index, full in enumerate([*flags, True]):
        if not full and start is None:
            start = index * _BLOCK
        if full and start is not None:
            yield slice(keys.start + start, keys.start + min(index * _BLOCK, n))
            start = None


def _runs_of(flags: Tensor, keys: slice) -> Iterator[tuple[bool, slice]]:
    """Blocks of keys joined while they agree whether every flag (bool ``[n]``) holds."""
    n = keys.stop - keys.start
    padded = torch.nn.functional.pad(flags, (0, -n % _BLOCK), value=True)
    whole = padded.view(-1, _BLOCK).all(1).tolist()
    start = 0
    for index in range(1, len(whole) + 1):
        if index == len(whole) or whole[index] != whole[start]:
            stop = min(index * _BLOCK, n)
            yield whole[start], slice(keys.start + start * _BLOCK, keys.start + stop)
            start = index


def _run(positions: Tensor) -> list[int] | None:
    """Each row's first position where positions count up by one, else None."""
    if positions.shape[1] > 1 and not bool((positions.diff(dim=1) == 1).all()):
        return None
    return [int(start) for start in positions[:, 0].tolist()]
