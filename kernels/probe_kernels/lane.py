"""The fast path on a CPU: one key head and one chunk of queries at a time, in buffers that are used again.

The query heads that share a key head are stacked as rows of one matrix product. The scores and the probabilities of a
block stay in the cache while each statistic passes over them once; what a chunk's rows yield is put in place at the
end of the chunk, for all heads together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_kernels import lanes, over_queries, tally
from probe_kernels.block import Block, Inputs
from probe_kernels.chunks import HIDDEN, Chunk
from probe_kernels.lane_rows import Rows
from probe_kernels.ledger import Ledger, at
from probe_kernels.over_keys import gap
from probe_kernels.values import add_parts


@dataclass(frozen=True)
class Head:
    """One key head of one batch row, and views of what belongs to it."""

    batch: slice
    index: int
    heads: slice  # the query heads that share it
    query: Tensor  # [group, Q, D]
    key: Tensor  # [K, D]
    value: Tensor | None  # [K, Dv]
    z: Tensor | None  # [group, Q, Dv]
    column: Tensor | None  # [group, K]


@dataclass(frozen=True)
class Frame:
    """The buffers of one chunk, cut to its size; every head of the chunk uses them in turn."""

    chunk: Chunk
    rows: Rows
    query: Tensor  # [group, rows, D]
    stacked: Tensor  # the same as [group · rows, D]
    scores: Tensor  # [group · rows, keys]
    cube: Tensor  # the same as [group, rows, keys]
    p: Tensor
    p_cube: Tensor
    z: Tensor  # [group · rows, Dv]


class Lane:
    """One thread's share of a call: its buffers, its sums over queries, and the loop over its chunks."""

    def __init__(self, inputs: Inputs, ledger: Ledger, z: Tensor | None) -> None:
        self.inputs = inputs
        self.ledger = ledger
        self.real = ledger.real is None
        lean = {
            "lse",
            "entropy",
            *(("distance",) if ledger.causal else ()),
            *(("column",) if self.real else ()),
        }
        want = ledger.want
        self.folds = tuple(
            fold for name, fold in tally.FOLDS.items() if name not in lean and getattr(want, name)
        )
        batch, heads = inputs.key.shape[:2]
        self.heads = [self._head(z, b, head) for b in range(batch) for head in range(heads)]

    def _head(self, z: Tensor | None, b: int, head: int) -> Head:
        inputs, column = self.inputs, self.ledger.out.column if self.real else None
        heads = slice(head * inputs.group, (head + 1) * inputs.group)
        return Head(
            slice(b, b + 1),
            head,
            heads,
            inputs.scores.query[b, heads],
            inputs.key[b, head],
            None if inputs.value is None else inputs.value[b, head],
            None if z is None else z[b, heads],
            None if column is None else column[b, heads],
        )

    def run(self, rows: Iterable[slice]) -> None:
        """Sweep these chunks."""
        for part in rows:
            chunk = self.ledger.ground.chunk(part, self.ledger.want.table or 1)
            over_queries.count(self.ledger, chunk)
            frame = self._frame(chunk)
            for head in self.heads:
                self._block(frame, head)
            frame.rows.close()

    def _frame(self, chunk: Chunk) -> Frame:
        group, n = self.inputs.group, chunk.n_keys
        rows, d = group * chunk.n_rows, self.inputs.key.shape[3]
        width = 0 if self.inputs.value is None else self.inputs.value.shape[3]
        sizes = (rows * n, rows * n, rows * d, rows * width)
        s, p, q, z = lanes.scratch(sizes, self.inputs.dtype)
        shape = group, chunk.n_rows
        return Frame(
            chunk,
            Rows(self.ledger, chunk, self.inputs),
            q.view(*shape, d),
            q.view(rows, d),
            s.view(rows, n),
            s.view(*shape, n),
            p.view(rows, n),
            p.view(*shape, n),
            z.view(rows, width),
        )

    def _block(self, frame: Frame, head: Head) -> None:
        chunk, row, s, p = frame.chunk, frame.rows, frame.scores, frame.p
        b = head.batch.start
        self._fill(frame, head)
        torch.softmax(s, 1, out=p)
        torch.amax(s, 1, out=row.top[b, head.index])
        torch.amax(p, 1, out=row.most[b, head.index])
        if row.may_be_empty:
            p.masked_fill_((row.top[b, head.index] <= HIDDEN / 10)[:, None], 0.0)
        if self.ledger.scores.sinks is not None:
            frame.p_cube.mul_(row.kept(b, head.index)[..., None])
        if head.column is not None:
            head.column[:, chunk.keys] += frame.p_cube.sum(1)
        if self.folds or self.ledger.want.parts:
            block = Block(chunk, head.batch, head.heads, frame.p_cube[None], None, frame.cube[None])
            for fold in self.folds:
                fold(self.ledger, block)
            for name in self.ledger.want.parts:
                add_parts(self.ledger, block, self.inputs, name)
        if head.z is not None and head.value is not None:
            torch.mm(p, head.value[chunk.keys], out=frame.z)
            head.z[:, chunk.rows] = frame.z.view(*frame.query.shape[:2], -1)
        row.add(p, s, b, head.index)  # last: it overwrites the scores

    def _fill(self, frame: Frame, head: Head) -> None:
        """Scores of the block: product, softcap, bias, ALiBi, mask."""
        one, chunk, s, cube = self.inputs.scores, frame.chunk, frame.scores, frame.cube
        frame.query.copy_(head.query[:, chunk.rows])
        frame.query.mul_(one.scale)
        torch.mm(frame.stacked, head.key[chunk.keys].t(), out=s)
        if one.softcap is not None:
            s.div_(one.softcap).tanh_().mul_(one.softcap)
        if one.bias is not None:
            cube += self.inputs.bias(chunk, head.heads, head.batch)[0]
        if one.alibi is not None:
            gaps = chunk.once("gap", lambda: gap(self.ledger, chunk).to(s.dtype))
            cube.addcmul_(one.alibi[head.heads, None, None].to(s.dtype), at(gaps, head.batch)[0], value=-1)
        if one.bias is not None:
            s.clamp_(min=HIDDEN)
        for edge in chunk.edges:
            # Adding is faster than filling, and exact: a finite score is lost beside HIDDEN.
            cube[..., chunk.local(edge)] += at(edge.wall, head.batch)[0]
