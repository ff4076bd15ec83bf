"""What the rows of one chunk yield in a lane: raw sums while its heads go by, statistics at the end."""

import torch
from torch import Tensor

from probe_kernels.block import Inputs, of_block, with_sink
from probe_kernels.chunks import HIDDEN, Chunk
from probe_kernels.ledger import Ledger
from probe_kernels.over_keys import behind_of, mass_of, spread_of


class Rows:
    """Per row of a chunk and for all heads: largest score, largest probability, mean score, mean position."""

    def __init__(self, ledger: Ledger, chunk: Chunk, inputs: Inputs) -> None:
        self.ledger = ledger
        self.chunk = chunk
        self.group = inputs.group
        batch, heads = inputs.key.shape[:2]
        sums = inputs.key.new_empty(4, batch, heads, inputs.group * chunk.n_rows)
        self.top, self.most, self.mean, self.behind = sums.unbind(0)
        self.distances = behind_of(ledger, chunk) if ledger.want.distance and ledger.causal else None
        self.may_be_empty = chunk.may_be_empty or ledger.scores.bias is not None

    def add(self, p: Tensor, s: Tensor, b: int, head: int) -> None:
        """One block's sums; the scores are overwritten."""
        if self.distances is not None:
            behind = self.distances[0]
            torch.mv(p, behind[b % behind.shape[0]], out=self.behind[b, head])
        if self.ledger.want.entropy:
            torch.mul(p, s, out=s)
            torch.sum(s, 1, out=self.mean[b, head])

    def kept(self, b: int, head: int) -> Tensor:
        """The keys' share of the mass beside a learned sink, ``[group, rows]``."""
        lse = (self.top[b, head] - self.most[b, head].log()).view(self.group, -1)
        if self.may_be_empty:
            lse = lse.masked_fill(self.top[b, head].view_as(lse) <= HIDDEN / 10, -torch.inf)
        heads = slice(head * self.group, (head + 1) * self.group)
        return with_sink(lse[None], self._sinks(slice(b, b + 1), heads))[1][0]

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
        top = self.top.view(shape)
        lse = top - self.most.view(shape).log()
        if self.may_be_empty:
            lse = lse.masked_fill(top <= HIDDEN / 10, -torch.inf)
        sink_mass = None
        if out.sink_mass is not None:
            lse, _, sink_mass = with_sink(lse, self._sinks(slice(0, batch), slice(0, heads)))
            out.sink_mass[:, :, rows] = sink_mass
        if out.lse is not None:
            out.lse[:, :, rows] = lse
        plain = sink_mass is None and not self.may_be_empty
        if out.entropy is not None and plain:
            out.entropy[:, :, rows] = (lse - self.mean.view(shape)).clamp_min_(0.0)
        elif out.entropy is not None:
            where = slice(0, batch), slice(0, heads), rows
            out.entropy[:, :, rows] = spread_of(self.ledger, where, lse, self.mean.view(shape), sink_mass)
        if out.distance is not None and self.distances is not None:
            ahead = self.distances[1][:, None]
            ahead = ahead if plain else mass_of(lse, sink_mass) * ahead
            out.distance[:, :, rows] = self.behind.view(shape) + ahead
