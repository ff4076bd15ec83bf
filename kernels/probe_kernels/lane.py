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
class Strip:
    """One batch row of a call: views of its tensors, apart by key head."""

    batch: int
    query: Tensor  # [Hk, group, Q, D]
    key: Tensor  # [Hk, D, K]
    value: Tensor | None  # [Hk, K, Dv]
    z: Tensor | None  # [Hk, group, Q, Dv]
    column: Tensor | None  # [H, 1, K]


@dataclass(frozen=True)
class Frame:
    """A block's place and its buffers, cut to size; the blocks of a lane use the same memory in turn."""

    chunk: Chunk
    rows: Rows
    batch: int
    some: slice  # key heads
    heads: slice  # the query heads that share them
    query: Tensor  # [some, group, rows, D]
    scores: Tensor  # [some, group · rows, keys], in units of log 2
    cube: Tensor  # the same as [heads, rows, keys]
    weights: Tensor
    weights_cube: Tensor
    z: Tensor  # [some, group · rows, Dv]


class Lane:
    """One thread's share of a call: its buffers, its sums over queries, and the loop over its chunks."""

    def __init__(self, inputs: Inputs, ledger: Ledger, z: Tensor | None, numbers: int) -> None:
        self.inputs = inputs
        self.ledger = ledger
        self.numbers = numbers
        self.real = ledger.real is None
        want = ledger.want
        own = {"lse", "entropy"}
        own |= {"distance"} if ledger.causal else set()
        own |= {"column"} if self.real else set()
        folds = {name: fold for name, fold in tally.FOLDS.items() if name not in own and getattr(want, name)}
        self.linear = tuple(fold for name, fold in folds.items() if name in tally.LINEAR)
        self.others = tuple(fold for name, fold in folds.items() if name not in tally.LINEAR)
        self.shifted: set[tuple[int, int]] = set()  # (batch row, key head) whose scores are too far from 0
        self.strips = [self._strip(z, b) for b in range(inputs.key.shape[0])]

    def _strip(self, z: Tensor | None, b: int) -> Strip:
        inputs, column = self.inputs, self.ledger.out.column if self.real else None
        shared = inputs.key.shape[1], inputs.group
        return Strip(
            b,
            inputs.scores.query[b].view(*shared, *inputs.scores.query.shape[2:]),
            inputs.key[b].transpose(1, 2),
            None if inputs.value is None else inputs.value[b],
            None if z is None else z[b].view(*shared, *z.shape[2:]),
            None if column is None else column[b, :, None],
        )

    def run(self, rows: Iterable[slice]) -> None:
        """Sweep these chunks."""
        n_heads, group = self.inputs.key.shape[1], self.inputs.group
        for part in rows:
            chunk = self.ledger.ground.chunk(part, self.ledger.want.table or 1)
            over_queries.count(self.ledger, chunk)
            sums = Rows(self.ledger, chunk, self.inputs)
            step = max(1, self.numbers // (group * chunk.n_rows * chunk.n_keys))
            for strip in self.strips:
                for start in range(0, n_heads, step):
                    some = slice(start, min(start + step, n_heads))
                    self._block(self._frame(chunk, sums, strip.batch, some), strip)
            sums.close()

    def _frame(self, chunk: Chunk, sums: Rows, batch: int, some: slice) -> Frame:
        group, rows, n = self.inputs.group, chunk.n_rows, chunk.n_keys
        some_heads, d = some.stop - some.start, self.inputs.key.shape[3]
        width = 0 if self.inputs.value is None else self.inputs.value.shape[3]
        stacked, heads = (some_heads, group * rows), (some_heads * group, rows)
        sizes = [heads[0] * rows * one for one in (n, n, d, width)]
        s, w, q, z = lanes.scratch(sizes, self.inputs.dtype)
        return Frame(
            chunk,
            sums,
            batch,
            some,
            slice(some.start * group, some.stop * group),
            q.view(some_heads, group, rows, d),
            s.view(*stacked, n),
            s.view(*heads, n),
            w.view(*stacked, n),
            w.view(*heads, n),
            z.view(*stacked, width),
        )

    def _block(self, frame: Frame, strip: Strip) -> None:
        keys, some, row, w = frame.chunk.keys, frame.some, frame.rows, frame.weights
        self._fill(frame, strip)
        self._weigh(frame)
        row.add(w, frame.scores, frame.batch, some)  # first: the scores may still be in the cache
        factor = row.settle(frame.batch, some)
        if strip.column is not None:
            strip.column[frame.heads, :, keys].baddbmm_(factor.flatten(0, 1)[:, None], frame.weights_cube)
        if strip.z is not None and strip.value is not None:
            torch.bmm(w, strip.value[some, keys], out=frame.z)
            z = frame.z.view(*factor.shape, -1)
            torch.mul(z, factor[..., None], out=strip.z[some, :, frame.chunk.rows])
        if self.linear or self.others or self.ledger.want.parts:
            self._fold(frame, factor)

    def _fold(self, frame: Frame, factor: Tensor) -> None:
        """What has no pass of its own here: from the weights where it is linear in them, else from probabilities."""
        want, weights = self.ledger.want, frame.weights_cube
        batch = slice(frame.batch, frame.batch + 1)
        scores = frame.rows.natural(frame.cube, frame.batch, frame.some)[None] if want.table else None
        block = Block(frame.chunk, batch, frame.heads, weights[None], None, scores)
        for fold in self.linear:
            fold(self.ledger, block)
        for name in want.parts:
            add_parts(self.ledger, block, self.inputs, name)
        if self.others:
            weights.mul_(factor.view(weights.shape[0], -1, 1))
        for fold in self.others:
            fold(self.ledger, block)

    def _weigh(self, frame: Frame) -> None:
        """Weights of the block and their sum per row; with the rows' largest scores taken off where they must be."""
        s, w, row = frame.scores, frame.weights, frame.rows
        top, mass = row.top[frame.batch, frame.some], row.mass[frame.batch, frame.some]
        places = {(frame.batch, head) for head in range(frame.some.start, frame.some.stop)}
        if not places & self.shifted:
            torch.exp2(s, out=w)
            torch.sum(w, -1, out=mass)
            if row.are_safe(frame.batch, mass):
                return
            self.shifted |= places
        torch.amax(s, -1, out=top)
        torch.exp2(s.sub_(top[..., None]), out=w)
        if row.may_be_empty:
            w.masked_fill_((top <= HIDDEN / 10)[..., None], 0.0)
        torch.sum(w, -1, out=mass)

    def _fill(self, frame: Frame, strip: Strip) -> None:
        """Scores of the block in units of log 2: product, softcap, bias, ALiBi, mask."""
        one, chunk, s, cube = self.inputs.scores, frame.chunk, frame.scores, frame.cube
        batch = slice(frame.batch, frame.batch + 1)
        frame.query.copy_(strip.query[frame.some, :, chunk.rows])
        frame.query.mul_(one.scale / (LN_2 if one.softcap is None else one.softcap))
        torch.bmm(frame.query.flatten(1, 2), strip.key[frame.some, :, chunk.keys], out=s)
        if one.softcap is not None:
            s.tanh_().mul_(one.softcap / LN_2)
        if one.bias is not None:
            cube.add_(self.inputs.bias(chunk, frame.heads, batch)[0], alpha=1 / LN_2)
        if one.alibi is not None:
            gaps = chunk.once(("gap", s.dtype), lambda: gap(self.ledger, chunk).to(s.dtype))
            slopes = one.alibi[frame.heads, None, None].to(s.dtype)
            cube.addcmul_(slopes, at(gaps, batch)[0], value=-1 / LN_2)
        if one.bias is not None:
            s.clamp_(min=HIDDEN)
        for edge in chunk.edges:
            # Adding is faster than filling, and exact: a finite score is lost beside HIDDEN.
            cube[..., chunk.local(edge)].add_(at(edge.wall, batch)[0])
