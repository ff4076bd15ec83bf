"""Neighbourhoods on a grid of tokens, 1-D to 3-D: NATTEN's rule, whose windows are shifted at a border, not shrunk."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_kernels.mask import Predicate, Tile, Twin


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: its length, the keys of a window, queries that share one, the gap of keys, and causality.

    Raises `ValueError` where a number is below 1, or the stride exceeds the window.
    """

    length: int
    window: int
    dilation: int = 1
    stride: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if min(self.length, self.window, self.dilation, self.stride) < 1 or self.stride > self.window:
            raise ValueError(
                f"a neighborhood of window {self.window}, dilation {self.dilation} and stride {self.stride} on an axis "
                f"of {self.length} was asked; give numbers from 1 up, and a stride of at most the window"
            )

    def near(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether the key's coordinate is in the query's window; a window longer than its axis is the whole axis."""
        of, i, j = query % self.dilation, query // self.dilation, key // self.dilation
        length = (self.length - of + self.dilation - 1) // self.dilation  # of the query's dilation group
        leader = i // self.stride * self.stride
        if self.causal:
            leader = torch.minimum(leader + self.stride - 1, length - 1)
            inside = (j <= i) & (leader - j < self.window)
        else:
            window = length.clamp(max=self.window)
            left = window // 2
            last = length - window + left  # the centre whose window ends at the border
            centre = torch.minimum(leader + self.stride // 2, length - 1)
            start = torch.minimum(torch.maximum(centre, left), last) - left
            inside = (j >= start) & (j < start + window)
        return inside & (key % self.dilation == of)

    def bounds(self, low: int, high: int) -> tuple[int, int]:
        """First and last coordinate that queries at low…high may see; the shift at a border counted in."""
        far = (self.window + self.stride) * self.dilation
        return max(low - far, 0), high if self.causal else high + far


def near_nd(axes: tuple[Axis, ...], extra: int = 0) -> Predicate:
    """Keys in the query's neighbourhood on a row-major grid whose first token has position `extra`.

    Tokens at other positions (a class token, registers, what follows the grid) are no part of the grid: they see
    everything, and everything sees them. The twin's numbers are (extra, axes, and for each axis length, window,
    dilation, stride, causal 0 or 1), the slowest axis first.
    """
    size, inner = math.prod(axis.length for axis in axes), math.prod(axis.length for axis in axes[1:])

    def visible(t: Tile) -> Tensor:
        i, j = t.query_pos - extra, t.key_pos - extra
        outside = (i < 0) | (i >= size) | (j < 0) | (j >= size)
        i, j = i.clamp(0, size - 1), j.clamp(0, size - 1)
        seen = torch.ones_like(outside)
        for axis in reversed(axes):
            seen = seen & axis.near(i % axis.length, j % axis.length)
            i, j = i // axis.length, j // axis.length
        return seen | outside

    def touch(lo: int, hi: int, key_pos: Tensor) -> Tensor:
        j = key_pos - extra
        if lo < extra or hi >= extra + size:
            return torch.ones_like(j, dtype=torch.bool)
        first, last = axes[0].bounds((lo - extra) // inner, (hi - extra) // inner)
        return ((j >= first * inner) & (j < (last + 1) * inner)) | (j < 0) | (j >= size)

    numbers = [extra, len(axes)]
    for axis in axes:
        numbers += [axis.length, axis.window, axis.dilation, axis.stride, int(axis.causal)]
    return Predicate(f"near_nd({numbers})", visible, twin=Twin("near_nd", tuple(numbers)), touch=touch)
