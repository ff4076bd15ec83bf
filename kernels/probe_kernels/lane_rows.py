"""What the rows of one chunk yield in a lane: raw sums while its heads go by, statistics at the end."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from probe_kernels.block import Inputs, of_block, with_sink
from probe_kernels.chunks import Chunk
from probe_kernels.ledger import Ledger
from probe_kernels.over_keys import behind_of, mass_of, spread_of

LN_2 = math.log(2)
_LEAST, _MOST = 2.0**-100, 2.0**100  # row masses that leave float32's range enough room on both sides


class Rows:
    """Per row of a chunk and for all heads: what was taken off its scores, and sums over its keys of the weights.

    With s in units of log 2 and w = 2^(s - top): mass Σ w, mean Σ w·(s - top), behind Σ w·(how far behind); factor is
    what makes probabilities of weights, 1 / mass (times the keys' share beside a sink), 0 where no key is seen.
    """

    def __init__(self, ledger: Ledger, chunk: Chunk, inputs: Inputs) -> None:
        self.ledger = ledger
        self.chunk = chunk
        self.group = inputs.group
        batch, heads = inputs.key.shape[:2]
        sums = inputs.key.new_zeros(5, batch, heads, inputs.group * chunk.n_rows)
        self.top, self.mass, self.mean, self.behind, self.factor = sums.unbind(0)
        self.distances = behind_of(ledger, chunk) if ledger.want.distance and ledger.causal else None
        self.may_be_empty = chunk.may_be_empty or ledger.scores.bias is not None

    def are_safe(self, b: int, mass: Tensor) -> bool:
        """Whether masses of weights without a shift, ``[some, group · rows]``, suit float32."""
        if self.chunk.may_be_empty:
            count = self.chunk.count_visible()
            empty = (count[b % count.shape[0]] == 0).repeat(self.group)
            mass = mass.masked_fill(empty, 1.0)
        least, most = torch.aminmax(mass)
        return bool(float(least) > _LEAST and float(most) < _MOST)

    def settle(self, b: int, some: slice) -> Tensor:
        """The factors of one block, ``[some, group, rows]``, now that its masses are known."""
        mass, factor = self.mass[b, some], self.factor[b, some]
        torch.reciprocal(mass, out=factor)
        if self.may_be_empty:
            factor.masked_fill_(mass == 0, 0.0)
        if self.ledger.scores.sinks is not None:
            heads = slice(some.start * self.group, some.stop * self.group)
            lse = ((self.top[b, some] + mass.log2()) * LN_2).view(1, -1, self.chunk.n_rows)
            factor.mul_(with_sink(lse, self._sinks(slice(b, b + 1), heads))[1].view_as(factor))
        return factor.view(-1, self.group, self.chunk.n_rows)

    def add(self, w: Tensor, s: Tensor, b: int, some: slice) -> None:
        """One block's sums; the scores are overwritten unless the table needs them."""
        if self.distances is not None:
            behind = self.distances[0]
            torch.mv(w.flatten(0, 1), behind[b % behind.shape[0]], out=self.behind[b, some].flatten())
        if self.ledger.want.entropy:
            product = torch.mul(w, s) if self.ledger.want.table else torch.mul(w, s, out=s)
            torch.sum(product, -1, out=self.mean[b, some])

    def natural(self, cube: Tensor, b: int, some: slice) -> Tensor:
        """The scores of a block as they were asked for, ``[heads, rows, keys]``."""
        return (cube + self.top[b, some].view(*cube.shape[:2], 1)) * LN_2

    def _sinks(self, batch: slice, heads: slice) -> Tensor:
        sinks = self.ledger.scores.sinks
        if sinks is None:
            raise RuntimeError("these scores carry no sinks")
        return of_block(sinks, batch, heads, self.chunk.rows).to(self.top.dtype)

    def close(self) -> None:
        """Put the chunk's rows in place."""
        out, rows = self.ledger.out, self.chunk.rows
        batch, heads = self.top.shape[0], self.top.shape[1] * self.group
        shape = batch, heads, self.chunk.n_rows
        top, mass, mean, factor = (one.view(shape) for one in (self.top, self.mass, self.mean, self.factor))
        bits = mass.log2()
        lse, sink_mass = (top + bits) * LN_2, None
        if out.sink_mass is not None:
            lse, _, sink_mass = with_sink(lse, self._sinks(slice(0, batch), slice(0, heads)))
            out.sink_mass[:, :, rows] = sink_mass
        if out.lse is not None:
            out.lse[:, :, rows] = lse
        plain = sink_mass is None and not self.may_be_empty
        if out.entropy is not None and plain:
            out.entropy[:, :, rows] = ((bits - mean * factor) * LN_2).clamp_min_(0.0)
        elif out.entropy is not None:
            where = slice(0, batch), slice(0, heads), rows
            mean = (mean + top * mass) * factor * LN_2
            out.entropy[:, :, rows] = spread_of(self.ledger, where, lse, mean, sink_mass)
        if out.distance is not None and self.distances is not None:
            ahead = self.distances[1][:, None]
            ahead = ahead if plain else mass_of(lse, sink_mass) * ahead
            out.distance[:, :, rows] = self.behind.view(shape) * factor + ahead
        for one in self._linear():
            one.mul_(factor.view(*shape, *[1] * (one.ndim - 3)))

    def _linear(self) -> Iterator[Tensor]:
        """What folds left of the weights in these rows: not yet of probabilities."""
        out, rows = self.ledger.out, self.chunk.rows
        for named in (out.first, out.offsets, out.matches, out.key_groups, out.parts):
            yield from (one[:, :, rows] for one in named.values())
        if out.distance is not None and self.distances is None:
            yield out.distance[:, :, rows]
