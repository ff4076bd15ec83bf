"""Which keys each tile of queries can see, and which it sees without asking the mask, as the kernels take it.

Both are kept with the layout, as every layer of a forward shares it: a layout is never changed in place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from probe_kernels.chunks import Ground

T = TypeVar("T")
_AT_ONCE = 256  # tiles of keys whose rows are looked up at a time


@dataclass(frozen=True)
class Ranges:
    """Storage ranges of keys per tile of queries, int32 on the device: low ≤ … < high, full_low ≤ … < full_high."""

    low: Tensor
    full_low: Tensor
    full_high: Tensor
    high: Tensor

    @staticmethod
    def of(ground: Ground, rows: slice, tile: tuple[int, int], *, asks: bool) -> "Ranges":
        """The ranges for tiles of `tile` rows and keys; `asks`: no pair is visible without looking (padding)."""
        return _kept(
            ground,
            ("keys", rows.start, rows.stop, tile, asks),
            lambda: Ranges(*_columns(_listed(ground, rows, tile, asks=asks), ground)),
        )

    def whole(self) -> "Ranges":
        """One tile for all: what any of them can see, nothing of it without asking."""
        low, high = self.low.min()[None], self.high.max()[None]
        return Ranges(low, low, low, high)

    def visit(self, width: int) -> "Ranges":
        """Places in a list of `width` keys instead of keys: all of them, none without asking."""
        zero = torch.zeros_like(self.low)
        return Ranges(zero, zero, zero, zero + width)


def transposed(ground: Ground, rows: slice, tile: tuple[int, int], *, asks: bool) -> tuple[Tensor, Tensor]:
    """Per tile of keys the rows ``low ≤ … < high``, whole tiles of them, that can see any of its keys; int32."""

    def make() -> tuple[Tensor, Tensor]:
        found = torch.tensor(_listed(ground, rows, tile, asks=asks))
        low, high = found[:, 0], found[:, 3]
        begins = torch.arange(0, ground.n_key, tile[1])
        parts = [_seen_by(part, low, high, rows, tile) for part in torch.split(begins, _AT_ONCE)]
        both = torch.cat(parts, dim=1).to(ground.layout.key_pos.device, torch.int32)
        return both[0].contiguous(), both[1].contiguous()

    return _kept(ground, ("queries", rows.start, rows.stop, tile, asks), make)


def _seen_by(begins: Tensor, low: Tensor, high: Tensor, rows: slice, tile: tuple[int, int]) -> Tensor:
    """First and last row, ``[2, key tiles]``, of the query tiles that reach each tile of keys."""
    hits = (low < begins[:, None] + tile[1]) & (begins[:, None] < high)
    first = hits.int().argmax(1)
    last = hits.shape[1] - hits.flip(1).int().argmax(1)
    some = hits.any(1)
    start = rows.start + first * tile[0]
    stop = (rows.start + last * tile[0]).clamp(max=rows.stop)
    return torch.stack((torch.where(some, start, 0), torch.where(some, stop, 0)))


def _kept(ground: Ground, key: tuple[object, ...], make: Callable[[], T]) -> T:
    kept = vars(ground.layout).setdefault("_ranges", {})
    if key not in kept:
        kept[key] = make()
    return cast(T, kept[key])


def _columns(found: list[tuple[int, int, int, int]], ground: Ground) -> Iterator[Tensor]:
    device = ground.layout.key_pos.device
    return iter(torch.tensor(found, dtype=torch.int32).t().contiguous().to(device))


def _listed(
    ground: Ground, rows: slice, tile: tuple[int, int], *, asks: bool
) -> list[tuple[int, int, int, int]]:
    size, width = tile
    cuts = [slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]
    if ground.key_start is None:
        return [(0, 0, 0, ground.n_key)] * len(cuts)
    if ground.query_start is not None:
        spans = [ground.query_range(cut) for cut in cuts]
    else:
        positions = ground.layout.query_pos.cpu()  # once, not once for each tile
        spans = [(int(part.min()), int(part.max())) for cut in cuts for part in (positions[:, cut],)]
    return [_one(ground, ground.key_start, span, width, asks=asks) for span in spans]


def _one(
    ground: Ground, starts: list[int], span: tuple[int, int], width: int, *, asks: bool
) -> tuple[int, int, int, int]:
    mask = ground.layout.mask
    first, last = mask.reach(*span)
    low = min(max(first - max(starts), 0), ground.n_key) // width * width
    high = max(min(last - min(starts) + 1, ground.n_key), low)
    if asks:
        return low, low, low, high
    first, last = mask.full(*span)
    full_low = -(-min(max(first - min(starts), low), high) // width) * width
    full_high = max(min(last - max(starts) + 1, high), 0) // width * width
    if full_low >= full_high:
        return low, low, low, high
    return low, full_low, full_high, high
