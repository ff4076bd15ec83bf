"""What each part adds in one run less what it adds in another, for as many parts at a time as memory is meant for.

All of it is ``senders · positions · d_model`` numbers per pair, far more than the model's own states: pairs are taken
in smaller batches first, and where one pair is too much its senders some layers at a time.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import Anatomy
from probe.circuits.senders import Senders, writes
from probe.circuits.study import Study, finer
from probe.circuits.trace import Trace
from probe.seam.projection import widths

MOST_NUMBERS = 2**27  # held at a time: half a gigabyte of float32


@dataclass(frozen=True)
class Chunk:
    """Senders that follow one another, and the layers they are of; the embedding goes with the first layer."""

    layers: tuple[int, ...]
    senders: slice


@dataclass(frozen=True)
class Changes:
    """Two runs of the same pairs, and chunks of at most `most` numbers, or of one layer where that alone is more."""

    other: Trace
    own: Trace
    senders: Senders
    most: int

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All senders, in their order."""
        layers = self.own.layers("resid_pre")
        width = max(1, self.most // self.own.value("resid_pre", layers[0]).numel())
        ends = [self.senders.before(layer + 1) for layer in layers]
        made: list[Chunk] = []
        first, start = 0, 0
        for n in range(1, len(layers) + 1):
            if n == len(layers) or ends[n] - start > width:
                made.append(Chunk(tuple(layers[first:n]), slice(start, ends[n - 1])))
                first, start = n, ends[n - 1]
        return made

    def of(self, chunk: Chunk) -> Float[Tensor, "pair sender position d_model"]:
        """What the senders of a chunk add in the other run, less what they add in the own one."""
        if len(self.chunks) == 1:
            return self._whole
        return self._made(chunk)

    @cached_property
    def _whole(self) -> Tensor:
        return self._made(self.chunks[0])

    def _made(self, chunk: Chunk) -> Tensor:
        return torch.cat(
            [writes(self.other, layer) - writes(self.own, layer) for layer in chunk.layers], dim=1
        )


def bounded(case: Study, most: int) -> Study:
    """The study in batches of which all senders' changes are at most `most` numbers, or in single pairs."""
    return finer(case, most // _numbers_per_token(case.engine.taps.anatomy))


def _numbers_per_token(anatomy: Anatomy) -> int:
    projections = [block.projection for block in anatomy.blocks if block.projection is not None]
    d_model = max((found[1] for one in projections if (found := widths(one.module))), default=1)
    return d_model * (1 + len(anatomy.blocks) + sum(one.n_heads for one in projections))
