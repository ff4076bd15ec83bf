"""The neighbours of each token on a line, an image or a video."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from probe_kernels.grid import Axis, near_nd
from probe_kernels.mask import Mask
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.skipping import visits
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores

Numbers = int | tuple[int, ...]


@dataclass(frozen=True)
class Neighborhood:
    """See `neighborhood`."""

    axes: tuple[Axis, ...]
    extra: int = 0

    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        parts = {key: [getattr(axis, key) for axis in self.axes] for key in ("window", "dilation", "stride")}
        plain = {key: None if set(one) == {1} and key != "window" else one for key, one in parts.items()}
        causal = [axis.causal for axis in self.axes]
        shape = [axis.length for axis in self.axes]
        return spec(
            "neighborhood",
            shape=shape,
            **plain,
            causal=causal if any(causal) else None,
            extra=self.extra or None,
        )

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The neighbourhoods as a mask, and as a visit where that saves work."""
        shape = [axis.length for axis in self.axes]
        wanted, pos = math.prod(shape) + self.extra, layout.key_pos
        count = torch.tensor(pos.shape[1]) if layout.key_real is None else layout.key_real.sum(1)
        if bool((count != wanted).any()):
            raise ValueError(
                f"{self.name} was asked, a grid of {' x '.join(map(str, shape))} and {self.extra} extra tokens, "
                f"{wanted} in all, but the call has {count.tolist()} keys; give the shape of the tokens, and the extra "
                "ones before it"
            )
        return visits(Selection(Mask((near_nd(self.axes, self.extra),))), layout)


def neighborhood(
    shape: Numbers,
    window: Numbers,
    dilation: Numbers = 1,
    stride: Numbers = 1,
    causal: bool | tuple[bool, ...] = False,
    extra: int = 0,
) -> Neighborhood:
    """Each token keeps its `window` nearest neighbours along every axis of a grid; at a border the window is shifted.

    Per axis, with group g = i mod dilation, i' = i div dilation and L' tokens in the group: the window is centred at
    min(⌊i'/stride⌋·stride + ⌊stride/2⌋, L'-1), moved inward until it lies on the axis, and has ⌊window/2⌋ keys before
    its centre. On a causal axis it ends at the query: j' ≤ i' and min(⌊i'/stride⌋·stride + stride - 1, L'-1) - j' <
    window. A window longer than its axis is the whole axis.

    Args:
        shape: Tokens along each axis, slowest first, one to three of them; the grid is row-major.
        window: Keys along each axis; one number for all, or one each, as everything that follows.
        dilation: Every so many tokens are neighbours.
        stride: So many neighbouring queries share a window; as long as the window it is blocked attention.
        causal: Whether only earlier tokens of an axis are kept.
        extra: Tokens before the grid (class token, registers): they keep every key, and every query keeps them.

    Raises:
        ValueError: no shape of one to three axes, a number below 1, a stride above its window, as many numbers as there
            are no axes; when applied, a call with another number of keys. NATTEN (arXiv 2204.07143, 2403.04690).
    """
    lengths = [shape] if isinstance(shape, int) else list(shape)
    if not 1 <= len(lengths) <= 3:
        raise ValueError(f"a neighborhood on {len(lengths)} axes was asked; give a shape of one to three")
    need_count("neighborhood", "extra", extra, "it counts the tokens before the grid", least=0)
    each = [
        _per_axis(name, one, len(lengths))
        for name, one in (("window", window), ("dilation", dilation), ("stride", stride), ("causal", causal))
    ]
    for length in lengths:
        need_count("neighborhood", "shape", length, "it counts the tokens of an axis")
    return Neighborhood(
        tuple(Axis(n, int(w), int(d), int(s), bool(c)) for n, w, d, s, c in zip(lengths, *each, strict=True)),
        extra,
    )


def _per_axis(name: str, value: Numbers | tuple[bool, ...], axes: int) -> list[int]:
    numbers = [value] * axes if isinstance(value, int) else list(value)
    if len(numbers) != axes:
        raise ValueError(
            f"neighborhood was asked with {len(numbers)} numbers of {name} for {axes} axes; give one or {axes}"
        )
    return numbers
