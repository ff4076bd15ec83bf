"""The matched control of a pattern that looks at scores: random blocks, as many in each head as the pattern keeps."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from probe_kernels.select import Pattern, Selection, Site, random_blocks
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit
from torch import Tensor

_BLOCK = 64  # keys of a block, where the pattern has no blocks of its own


@dataclass(frozen=True)
class Control:
    """Draws the control of one pattern, call by call."""

    block: int
    seed: int

    def like(self, density: Float[Tensor, "batch head"]) -> "RandomHeads":
        """Random blocks with the density of each head (its mean over the batch)."""
        return RandomHeads(tuple(density.mean(0).tolist()), self.block, self.seed)


def control_of(pattern: Pattern, seed: int) -> Control | None:
    """The control of a pattern, with its size of blocks; None for one that does not look at scores."""
    if not pattern.learned:
        return None
    block = getattr(pattern, "block", _BLOCK)
    return Control(block if isinstance(block, int) else _BLOCK, seed)


@dataclass(frozen=True)
class RandomHeads:
    """Random blocks, with a density for each head of a layer."""

    densities: tuple[float, ...]
    block: int
    seed: int

    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What it is, for errors."""
        return f"random_blocks:block={self.block},seed={self.seed}"

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """Every head's own draw; a head that keeps everything keeps everything."""
        visits = [self._one(head, scores, layout, site) for head in range(len(self.densities))]
        width = max(visit.index.shape[3] for visit in visits)
        padded = [
            torch.nn.functional.pad(visit.index, (0, width - visit.index.shape[3]), value=-1)
            for visit in visits
        ]
        return Selection(visit=Visit(visits[0].rows, torch.cat(padded, dim=1)))

    def _one(self, head: int, scores: Scores, layout: Layout, site: Site) -> Visit:
        one = replace(
            scores,
            query=scores.query[:, :1],
            key=scores.key[:, :1],
            value=None,
            sinks=None,
            alibi=None,
            bias=None,
        )
        # The draw differs by layer of itself; a layer's heads are told apart by their seeds.
        drawn = random_blocks(self.densities[head], self.block, self.seed * 1_000 + head)
        visit = drawn.select(one, layout, site).visit
        if visit is None:
            raise ValueError(f"{drawn.name} was drawn; it visits no blocks")
        return visit
