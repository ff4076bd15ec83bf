"""The fast path on a CPU: one key head and one chunk of queries at a time, in buffers that are used again.

The query heads that share a key head are stacked as rows of one matrix product. The scores and the probabilities of a
block stay in the cache while each statistic passes over them once; what a chunk's rows yield is put in place at the
end of the chunk, for all heads together.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from probe_kernels import over_queries, tally
from probe_kernels.block import HIDDEN, Block, Inputs, of_block, with_sink
from probe_kernels.chunks import Chunk
from probe_kernels.ledger import Ledger, at
from probe_kernels.over_keys import behind_of, gap, mass_of, spread_of
from probe_kernels.values import add_parts

_LEAN = frozenset({"lse", "entropy", "distance"})  # folded here, not by tally


class Lane:
    """One thread's share of a call: its buffers, its sums over queries, and the loop over its chunks."""

    def __init__(self, inputs: Inputs, ledger: Ledger, z: Tensor | None) -> None:
        self.inputs = inputs
        self.ledger = ledger
        self.z = z
        self.buffers = inputs.key.new_empty(0), inputs.key.new_empty(0)
        lean = _LEAN if ledger.causal else _LEAN - {"distance"}
        want = ledger.want
        self.folds = tuple(
            fold for name, fold in tally.FOLDS.items() if name not in lean and getattr(want, name)
        )

    def run(self, rows: Iterable[slice]) -> None:
        """Sweep these chunks."""
        heads, batch = self.inputs.key.shape[1], self.inputs.key.shape[0]
        for part in rows:
            chunk = self.ledger.ground.chunk(part, self.ledger.want.table or 1)
            over_queries.count(self.ledger, chunk)
            row = Rows(self.ledger, chunk, self.inputs)
            for b in range(batch):
                for head in range(heads):
                    self._block(chunk, b, head, row)
            row.close()

    def _buffers(self, n: int) -> tuple[Tensor, Tensor]:
        if self.buffers[0].numel() < n:
            self.buffers = self.inputs.key.new_empty(n), self.inputs.key.new_empty(n)
        return self.buffers[0][:n], self.buffers[1][:n]

    def _block(self, chunk: Chunk, b: int, head: int, row: "Rows") -> None:
        group = self.inputs.group
        rows, n = group * chunk.n_rows, chunk.n_keys
        s, p = (one.view(rows, n) for one in self._buffers(rows * n))
        heads, batch = slice(head * group, head * group + group), slice(b, b + 1)
        self._fill(s, chunk, b, heads)
        torch._softmax(s, 1, False, out=p)
        torch.amax(s, 1, out=row.top[b, head])
        torch.amax(p, 1, out=row.most[b, head])
        if row.may_be_empty:
            p.masked_fill_((row.top[b, head] <= HIDDEN / 10)[:, None], 0.0)
        shape = (1, group, chunk.n_rows, n)
        block = Block(chunk, batch, heads, p.view(shape), None, s.view(shape))
        if self.ledger.scores.sinks is not None:
            block.p.mul_(row.kept(b, head)[..., None])
        row.add(p, s, b, head)
        for fold in self.folds:
            fold(self.ledger, block)
        for name in self.ledger.want.parts:
            add_parts(self.ledger, block, self.inputs, name)
        if self.z is not None and self.inputs.value is not None:
            z = torch.mm(p, self.inputs.value[b, head, chunk.keys])
            self.z[b, heads, chunk.rows] = z.view(group, chunk.n_rows, -1)

    def _fill(self, s: Tensor, chunk: Chunk, b: int, heads: slice) -> None:
        """Scores of the block: product, softcap, bias, ALiBi, mask."""
        one = self.inputs.scores
        query = one.query[b, heads, chunk.rows].to(self.inputs.dtype) * one.scale
        torch.mm(
            query.reshape(s.shape[0], -1),
            self.inputs.key[b, heads.start // self.inputs.group, chunk.keys].t(),
            out=s,
        )
        if one.softcap is not None:
            s.div_(one.softcap).tanh_().mul_(one.softcap)
        cube = s.view(heads.stop - heads.start, chunk.n_rows, chunk.n_keys)
        if one.bias is not None:
            cube += self.inputs.bias(chunk, heads, slice(b, b + 1))[0]
        if one.alibi is not None:
            gaps = chunk.once("gap", lambda: gap(self.ledger, chunk))
            slopes = one.alibi[heads, None, None].to(s.dtype)
            cube.addcmul_(slopes, at(gaps, slice(b, b + 1))[0].to(s.dtype), value=-1)
        if one.bias is not None:
            s.clamp_(min=HIDDEN)
        for edge in chunk.edges:
            # Adding is faster than filling, and exact: a finite score is lost beside HIDDEN.
            wall = chunk.once(("wall", edge.keys.start), lambda e=edge: e.hidden.to(s.dtype).mul_(HIDDEN))
            cube[..., chunk.local(edge)] += at(wall, slice(b, b + 1))[0]


class Rows:
    """What each row of a chunk yields, for all heads: raw sums while the blocks go by, statistics at the end."""

    def __init__(self, ledger: Ledger, chunk: Chunk, inputs: Inputs) -> None:
        self.ledger = ledger
        self.chunk = chunk
        batch, heads = inputs.key.shape[:2]
        self.top, self.most, self.mean, self.behind = inputs.key.new_empty(
            4, batch, heads, inputs.group * chunk.n_rows
        )
        self.group = inputs.group
        self.distances = behind_of(ledger, chunk) if ledger.want.distance and ledger.causal else None
        hides = bool(chunk.edges) and int(chunk.count_visible().min()) == 0
        self.may_be_empty = hides or ledger.scores.bias is not None

    def add(self, p: Tensor, s: Tensor, b: int, head: int) -> None:
        """One block's sums."""
        if self.ledger.want.entropy:
            torch.linalg.vecdot(p, s, out=self.mean[b, head])
        if self.distances is not None:
            behind = self.distances[0]
            torch.mv(p, behind[b % behind.shape[0]], out=self.behind[b, head])

    def kept(self, b: int, head: int) -> Tensor:
        """The keys' share of the mass beside a learned sink, ``[1, group, rows]``."""
        lse = (self.top[b, head] - self.most[b, head].log()).view(1, self.group, -1)
        if self.may_be_empty:
            lse = lse.masked_fill(self.top[b, head].view_as(lse) <= HIDDEN / 10, -torch.inf)
        return with_sink(
            lse, self._sinks(slice(b, b + 1), slice(head * self.group, head * self.group + self.group))
        )[1]

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
        if out.entropy is not None:
            where = slice(0, batch), slice(0, heads), rows
            out.entropy[:, :, rows] = spread_of(self.ledger, where, lse, self.mean.view(shape), sink_mass)
        if out.distance is not None and self.distances is not None:
            mass = mass_of(lse, sink_mass)
            out.distance[:, :, rows] = self.behind.view(shape) + mass * self.distances[1][:, None]
