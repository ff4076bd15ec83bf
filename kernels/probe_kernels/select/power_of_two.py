"""Blocks whose distance is a power of two: few keys, and every token in reach after a logarithm of layers."""

from dataclasses import dataclass
from typing import ClassVar

from probe_kernels import mask
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.skipping import visits
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores


@dataclass(frozen=True)
class PowerOfTwo:
    """See `power_of_two`."""

    block: int = 64
    local: int = 2
    keep_first: bool = True

    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        need_count("power_of_two", "block", self.block, "it counts the tokens of a block")
        need_count(
            "power_of_two", "local", self.local, "it counts the nearest blocks, the query's own included"
        )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("power_of_two", **vars(self))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The blocks as a mask, and as a visit where that saves work."""
        rule = mask.power_of_two(self.block, self.local)
        kept = mask.Mask((), (rule, mask.first(self.block))) if self.keep_first else mask.Mask((rule,))
        return visits(Selection(kept), layout)


def power_of_two(block: int = 64, local: int = 2, keep_first: bool = True) -> PowerOfTwo:
    """Each query keeps the nearest `local` blocks, its own among them, and those 1, 2, 4, 8, … blocks from its own.

    With D = |i // block - j // block|: D < local or D & (D - 1) = 0; and the first block, unless told not to. After d
    layers every block at a distance below 2^d is in reach: a distance needs as many layers as it has binary ones.
    Raises `ValueError` where block or local is below 1. PowerAttention (arXiv 2503.03588), put on a model as it is.
    """
    return PowerOfTwo(block, local, keep_first)
