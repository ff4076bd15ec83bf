"""Every key: what the others are held against, and what `per_head` gives the heads that need it."""

from dataclasses import dataclass
from typing import ClassVar

from probe_kernels.select.base import Selection, Site
from probe_kernels.types import Layout, Scores


@dataclass(frozen=True)
class Full:
    """See `full`."""

    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return "full"

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """Nothing is narrowed."""
        return Selection()


def full() -> Full:
    """Each query keeps every key that the model shows it: density 1."""
    return Full()
