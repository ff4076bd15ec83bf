"""What a sparse pattern is: from the scores and layout of one call to which keys each query keeps."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from probe_kernels.chunks import Ground
from probe_kernels.mask import Mask, Tile
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit

_PAIRS = 2**24  # pairs that are counted at a time


@dataclass(frozen=True)
class Site:
    """Where a pattern is applied: the layer, and what earlier layers of the same forward have left for it."""

    layer: int = 0
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """A pattern applied to one call; it narrows what the call's own mask shows.

    `mask` keeps by logical position and segment, the same for every head; `visit` by storage index, maybe differently
    for each head. Both hold where both are given. `order` int64 ``[b, h, K]`` tells in which order keys were put before
    they were cut into blocks, for patterns that permute them.
    """

    mask: Mask | None = None
    visit: Visit | None = None
    order: Tensor | None = None

    def narrowed(self, layout: Layout) -> Layout:
        """The layout with the selection's mask, if any, on top of its own."""
        if self.mask is None:
            return layout
        own, extra = layout.mask, self.mask
        if own.any_of and extra.any_of:
            raise ValueError(
                "two masks with any_of cannot be joined into one; give the pattern's rule as all_of"
            )
        joined = Mask((*own.all_of, *extra.all_of), (*own.any_of, *extra.any_of))
        return Layout(**{**{k: v for k, v in vars(layout).items() if not k.startswith("_")}, "mask": joined})

    def visible(self, layout: Layout, rows: slice, keys: slice, n_key: int) -> Tensor:
        """Bool ``[b, h, rows, keys]``: what the selection alone keeps."""
        seen = torch.ones(
            1,
            1,
            rows.stop - rows.start,
            keys.stop - keys.start,
            dtype=torch.bool,
            device=layout.key_pos.device,
        )
        if self.mask is not None:
            tile = Tile(
                layout.query_pos[:, rows, None],
                layout.key_pos[:, None, keys],
                None if layout.query_segment is None else layout.query_segment[:, rows, None],
                None if layout.key_segment is None else layout.key_segment[:, None, keys],
                rows,
                keys,
            )
            own = self.mask.visible(tile)
            seen = seen if own is None else seen & own[:, None]
        return seen if self.visit is None else seen & self.visit.visible(rows, keys, n_key)

    def density(self, scores: Scores, layout: Layout) -> Tensor:
        """Share of the pairs that the call's mask shows real queries which the selection keeps, ``[B, H]``, 0 to 1."""
        batch, heads, n_query, _ = scores.query.shape
        n_key = scores.key.shape[2]
        ground = Ground(layout, n_query, n_key)
        kept = torch.zeros(batch, heads, dtype=torch.float64, device=scores.query.device)
        all_of_them = torch.zeros(batch, 1, dtype=torch.float64, device=scores.query.device)
        for rows in ground.runs(max(1, _PAIRS // (n_key * batch * heads))):
            every = slice(0, n_key)
            shown = ground.tile(rows, every)
            shown = (
                torch.ones(1, rows.stop - rows.start, n_key, dtype=torch.bool, device=kept.device)
                if shown is None
                else shown
            )
            if ground.query_real is not None:
                shown = shown & ground.query_real[:, rows, None]
            both = shown[:, None] & self.visible(layout, rows, every, n_key)
            kept += both.sum((2, 3), dtype=torch.float64).expand(batch, heads)
            all_of_them += shown.sum((1, 2), dtype=torch.float64)[:, None].expand(batch, 1)
        return kept / all_of_them.clamp_min(1)


@runtime_checkable
class Pattern(Protocol):
    """Anything that selects; `name` is its spec, ``sink_recent:sinks=4,recent=256``."""

    @property
    def learned(self) -> bool:
        """Whether it looks at scores: random_blocks at its density is then its control."""

    @property
    def name(self) -> str:
        """The spec that makes it again."""

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """What each query keeps of this call; raises `ValueError` where the call does not suit the pattern."""
