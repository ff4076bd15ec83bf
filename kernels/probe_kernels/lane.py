"""The fast path on a CPU: one key head and one chunk of queries at a time, in buffers that are used again.

The query heads that share a key head are stacked as rows of one matrix product. Scores are kept in units of log 2 (a
power of two is torch's cheapest exponential), and what is summed are the weights w = 2^s, not probabilities: sums over
keys are divided by the row's mass Σ w in the end, sums over queries count each row 1 / mass. So no pass over the block
looks for maxima or normalises it, unless some statistic is not linear in p. Rows whose mass does not suit float32 are
done again with their largest score taken off.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_kernels import lanes, over_queries, tally
from probe_kernels.block import Block, Inputs
from probe_kernels.chunks import HIDDEN, Chunk
from probe_kernels.lane_rows import LN_2, Rows
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
    scores: Tensor  # [group · rows, keys], in units of log 2
    cube: Tensor  # the same as [group, rows, keys]
    weights: Tensor
    weights_cube: Tensor
    z: Tensor  # [group · rows, Dv]


class Lane:
    """One thread's share of a call: its buffers, its sums over queries, and the loop over its chunks."""

    def __init__(self, inputs: Inputs, ledger: Ledger, z: Tensor | None) -> None:
        self.inputs = inputs
        self.ledger = ledger
        self.real = ledger.real is None
        want = ledger.want
        own = {"lse", "entropy"}
        own |= {"distance"} if ledger.causal else set()
        own |= {"column"} if self.real else set()
        folds = {name: fold for name, fold in tally.FOLDS.items() if name not in own and getattr(want, name)}
        self.linear = tuple(fold for name, fold in folds.items() if name in tally.LINEAR)
        self.others = tuple(fold for name, fold in folds.items() if name not in tally.LINEAR)
        self.shifted: set[tuple[int, int]] = set()  # (batch row, key head) whose scores are too far from 0
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
        s, w, q, z = lanes.scratch(sizes, self.inputs.dtype)
        shape = group, chunk.n_rows
        return Frame(
            chunk,
            Rows(self.ledger, chunk, self.inputs),
            q.view(*shape, d),
            q.view(rows, d),
            s.view(rows, n),
            s.view(*shape, n),
            w.view(rows, n),
            w.view(*shape, n),
            z.view(rows, width),
        )

    def _block(self, frame: Frame, head: Head) -> None:
        chunk, row, w = frame.chunk, frame.rows, frame.weights
        self._fill(frame, head)
        self._weigh(frame, head)
        factor = row.settle(head.batch.start, head.index)
        if head.column is not None:
            for column, block, one in zip(head.column, frame.weights_cube, factor, strict=True):
                column[chunk.keys].addmv_(block.t(), one)
        if head.z is not None and head.value is not None:
            torch.mm(w, head.value[chunk.keys], out=frame.z)
            z = frame.z.view(*factor.shape, -1)
            torch.mul(z, factor[..., None], out=head.z[:, chunk.rows])
        row.add(w, frame.scores, head.batch.start, head.index)
        if self.linear or self.others or self.ledger.want.parts:
            self._fold(frame, head, factor)

    def _fold(self, frame: Frame, head: Head, factor: Tensor) -> None:
        """What has no pass of its own here: from the weights where it is linear in them, else from probabilities."""
        want, weights = self.ledger.want, frame.weights_cube
        scores = frame.rows.natural(frame.cube, head.batch.start, head.index) if want.table else None
        block = Block(
            frame.chunk, head.batch, head.heads, weights[None], None, None if scores is None else scores[None]
        )
        for fold in self.linear:
            fold(self.ledger, block)
        for name in want.parts:
            add_parts(self.ledger, block, self.inputs, name)
        if self.others:
            weights.mul_(factor[..., None])
        for fold in self.others:
            fold(self.ledger, block)

    def _weigh(self, frame: Frame, head: Head) -> None:
        """Weights of the block and their sum per row; with the rows' largest scores taken off where they must be."""
        s, w, row = frame.scores, frame.weights, frame.rows
        place = head.batch.start, head.index
        top, mass = row.top[place], row.mass[place]
        if place not in self.shifted:
            torch.exp2(s, out=w)
            torch.sum(w, 1, out=mass)
            if row.are_safe(*place):
                return
            self.shifted.add(place)
        torch.amax(s, 1, out=top)
        torch.exp2(s.sub_(top[:, None]), out=w)
        if row.may_be_empty:
            w.masked_fill_((top <= HIDDEN / 10)[:, None], 0.0)
        torch.sum(w, 1, out=mass)

    def _fill(self, frame: Frame, head: Head) -> None:
        """Scores of the block in units of log 2: product, softcap, bias, ALiBi, mask."""
        one, chunk, s, cube = self.inputs.scores, frame.chunk, frame.scores, frame.cube
        frame.query.copy_(head.query[:, chunk.rows])
        frame.query.mul_(one.scale / (LN_2 if one.softcap is None else one.softcap))
        torch.mm(frame.stacked, head.key[chunk.keys].t(), out=s)
        if one.softcap is not None:
            s.tanh_().mul_(one.softcap / LN_2)
        if one.bias is not None:
            cube.add_(self.inputs.bias(chunk, head.heads, head.batch)[0], alpha=1 / LN_2)
        if one.alibi is not None:
            gaps = chunk.once("gap", lambda: gap(self.ledger, chunk).to(s.dtype))
            slopes = one.alibi[head.heads, None, None].to(s.dtype)
            cube.addcmul_(slopes, at(gaps, head.batch)[0], value=-1 / LN_2)
        if one.bias is not None:
            s.clamp_(min=HIDDEN)
        for edge in chunk.edges:
            # Adding is faster than filling, and exact: a finite score is lost beside HIDDEN.
            cube[..., chunk.local(edge)] += at(edge.wall, head.batch)[0]
