"""Which keys each tile of queries can see, and which it sees without asking the mask, as the kernels take it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_kernels.chunks import Ground


@dataclass(frozen=True)
class Ranges:
    """Storage ranges of keys per tile of queries, int32 on the device: low ≤ … < high, full_low ≤ … < full_high."""

    low: Tensor
    full_low: Tensor
    full_high: Tensor
    high: Tensor

    @staticmethod
    def of(ground: Ground, rows: slice, tile: tuple[int, int], *, asks: bool) -> "Ranges":
        """The ranges for tiles of `tile` rows and keys; `asks`: no pair is visible without looking (padding, visits)."""
        kept = vars(ground.layout).setdefault("_ranges", {})
        key = (rows.start, rows.stop, tile, asks)
        if key not in kept:
            size, width = tile
            found = [
                _one(ground, slice(start, min(start + size, rows.stop)), width, asks=asks)
                for start in range(rows.start, rows.stop, size)
            ]
            columns = (
                torch.tensor(found, dtype=torch.int32, device=ground.layout.key_pos.device).t().contiguous()
            )
            kept[key] = Ranges(*columns)
        one: Ranges = kept[key]
        return one

    def whole(self) -> "Ranges":
        """One tile for all: what any of them can see, nothing of it without asking."""
        low, high = self.low.min()[None], self.high.max()[None]
        return Ranges(low, low, low, high)


def _one(ground: Ground, rows: slice, width: int, *, asks: bool) -> tuple[int, int, int, int]:
    if ground.key_start is None:
        return 0, 0, 0, ground.n_key
    lo, hi = ground.query_range(rows)
    first, last = ground.layout.mask.reach(lo, hi)
    low = min(max(first - max(ground.key_start), 0), ground.n_key) // width * width
    high = max(min(last - min(ground.key_start) + 1, ground.n_key), low)
    if asks:
        return low, low, low, high
    first, last = ground.layout.mask.full(lo, hi)
    full_low = -(-min(max(first - min(ground.key_start), low), high) // width) * width
    full_high = max(min(last - max(ground.key_start) + 1, high), 0) // width * width
    if full_low >= full_high:
        return low, low, low, high
    return low, full_low, full_high, high


def transposed(
    ranges: Ranges, n_key: int, size: int, width: int, first_row: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Per tile of `width` keys the rows ``low ≤ … < high`` of whole tiles of `size` that can see any of its keys."""
    low, high = ranges.low.tolist(), ranges.high.tolist()
    found = []
    for start in range(0, n_key, width):
        those = [t for t, (a, b) in enumerate(zip(low, high, strict=True)) if a < start + width and start < b]
        rows = (
            (first_row + those[0] * size, min(first_row + (those[-1] + 1) * size, stop)) if those else (0, 0)
        )
        found.append(rows)
    both = torch.tensor(found, dtype=torch.int32, device=ranges.low.device).t().contiguous()
    return both[0], both[1]
