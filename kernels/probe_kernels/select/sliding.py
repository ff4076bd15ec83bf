"""The last keys alone."""

from dataclasses import dataclass
from typing import ClassVar

from probe_kernels.mask import Mask, near
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores


@dataclass(frozen=True)
class Sliding:
    """See `sliding`."""

    window: int

    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        need_count(
            "sliding", "window", self.window, "it counts the keys of the window, the query's own included"
        )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("sliding", window=self.window)

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The window, as a mask: the sweep skips what lies outside its reach."""
        return Selection(Mask((near(self.window - 1),)))


def sliding(window: int) -> Sliding:
    """Each query keeps the keys less than `window` positions from it, |i - j| < window, its own among them.

    No sink is kept: `sink_recent` is this with one. Positions are those of the layout, numbers of real tokens. A window
    longer than the sequence is the whole sequence. Raises `ValueError` below 1. Longformer (arXiv 2004.05150).
    """
    return Sliding(window)
