"""What a selector may look at before it selects: strips of exact scores, means of queries, what a block can see.

Nothing here is larger than a strip ``[rows, K]`` or a map ``[blocks, K]``. Hidden keys (mask, padding, a bias of minus
infinity) have score -inf, whatever they hold. Blocks are cut in storage order, as visits are: padding of whole blocks
changes nothing, any other padding on the left moves the cuts.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from probe_kernels.block import Inputs
from probe_kernels.chunks import HIDDEN, Chunk, Edge, Ground
from probe_kernels.types import Layout, Scores

_STRIP = 2**21  # numbers of a strip of scores, over batch and heads


class Sight:
    """One call as selectors see it; every answer is in storage order."""

    def __init__(self, scores: Scores, layout: Layout) -> None:
        self.scores = scores
        self.layout = layout
        self.inputs = Inputs.of(scores)
        self.batch, self.heads, self.n_query, self.width = scores.query.shape
        self.n_key = scores.key.shape[2]
        self.ground = Ground(layout, self.n_query, self.n_key)
        self.device = scores.query.device

    @property
    def query_real(self) -> Tensor:
        """Bool ``[B, Q]``."""
        return self._real(self.ground.query_real, self.n_query)

    @property
    def key_real(self) -> Tensor:
        """Bool ``[B, K]``."""
        return self._real(self.ground.key_real, self.n_key)

    def _real(self, real: Tensor | None, n: int) -> Tensor:
        if real is None:
            return torch.ones(self.batch, n, dtype=torch.bool, device=self.device)
        return real.expand(self.batch, n)

    def strips(self, multiple: int = 1) -> Iterator[slice]:
        """Rows whose scores fit a strip, as a multiple of `multiple` rows, in order."""
        fit = _STRIP // (self.batch * self.heads * self.n_key)
        yield from self.ground.runs(max(1, fit // multiple) * multiple)

    def strip(self, rows: slice, keys: slice | None = None) -> Tensor:
        """Exact scores of some rows, bias and softcap included, ``[B, H, rows, keys]``; -inf where hidden."""
        keys = slice(0, self.n_key) if keys is None else keys
        seen = self.ground.tile(rows, keys)
        edges = () if seen is None else (Edge(keys, seen),)
        chunk = Chunk(rows, keys, edges, self.device)
        s = self.inputs.raw(chunk, self.layout.query_pos, self.layout.key_pos)
        return s.masked_fill(s <= HIDDEN, -torch.inf)

    def probs(self, rows: slice) -> Tensor:
        """Softmax over the visible keys, sinks left out; rows that are padding or see nothing are 0."""
        s = self.strip(rows)
        dead = (s.amax(-1) == -torch.inf) | ~self.query_real[:, None, rows]
        return torch.softmax(s.masked_fill(dead[..., None], 0.0), dim=-1).masked_fill(dead[..., None], 0.0)

    def seen(self, block: int) -> Tensor:
        """Which keys some real query of a block sees, bool ``[B, h, I, K]``; h is H where a bias may hide, else 1."""
        seen = self._seen_through_bias if self.scores.bias is not None else self._seen
        return torch.stack([seen(rows) for rows in self.ground.runs(block)], dim=2)

    def _seen(self, rows: slice) -> Tensor:
        chunk, real = self.ground.chunk(rows), self.query_real[:, rows]
        seen = torch.zeros(self.batch, 1, self.n_key, dtype=torch.bool, device=self.device)
        seen[:, :, chunk.keys] = real.any(1)[:, None, None]
        for edge in chunk.edges:
            seen[:, 0, edge.keys] = (edge.visible & real[..., None]).any(1)
        return seen

    def _seen_through_bias(self, rows: slice) -> Tensor:
        seen = self._bias(rows) > HIDDEN
        tile = self.ground.tile(rows, slice(0, self.n_key))
        if tile is not None:
            seen = seen & tile[:, None]
        return (seen & self.query_real[:, None, rows, None]).any(2)

    def _bias(self, rows: slice) -> Tensor:
        return self.inputs.bias(Chunk(rows, slice(0, self.n_key), (), self.device))

    def first_keys(self, count: int) -> Tensor:
        """The first `count` real keys, of each packed sequence where sequences are packed; bool ``[B, K]``."""
        real = self.key_real
        rank = real.long().cumsum(1)
        segment = self.layout.key_segment
        if segment is not None and any(one.name == "same_segment" for one in self.layout.mask.all_of):
            segment = segment.expand(self.batch, self.n_key)
            begins = torch.ones_like(real)
            begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
            rank = rank - torch.where(begins, rank - real.long(), 0).cummax(1).values
        return real & (rank <= count)

    def own_keys(self, rows: int) -> Tensor:
        """The keys of each block's own tokens, ``[b, I, K]``: by storage where queries are last, or by position."""
        query_pos, key_pos = self.layout.query_pos, self.layout.key_pos
        shift = self.n_key - self.n_query
        blocks = -(-self.n_query // rows)
        if shift >= 0 and bool((query_pos == key_pos[:, shift:]).all()):
            start = shift + torch.arange(blocks, device=self.device)[None, :, None] * rows
            at = torch.arange(self.n_key, device=self.device)
            return (at >= start) & (at < start + rows)
        low, high = self.positions(rows)
        at = key_pos[:, None]
        return (at >= low[..., None]) & (at <= high[..., None])

    def positions(self, rows: int) -> tuple[Tensor, Tensor]:
        """Lowest and highest position of the real queries of each block, ``[B, I]``; low > high where none is real."""
        far = torch.iinfo(torch.int64).max // 4
        at = self.layout.query_pos.expand(self.batch, -1)
        real = self.query_real
        low = into_blocks(at.masked_fill(~real, far), rows, far).amin(-1)
        return low, into_blocks(at.masked_fill(~real, -far), rows, -far).amax(-1)

    def mean_query(self, rows: int) -> Tensor:
        """Mean of the real queries of each block, ``[B, H, I, D]``."""
        real = self.query_real
        q = self.scores.query.to(self.inputs.dtype).masked_fill(~real[:, None, :, None], 0.0)
        total = into_blocks(q.transpose(2, 3), rows, 0.0).sum(-1).transpose(2, 3)
        count = into_blocks(real, rows, False).sum(-1).clamp_min(1)
        return total / count[:, None, :, None]

    def mean_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """softcap(scale·q·k) of mean queries ``[B, H, I, D]`` and keys ``[B, H or Hk, N, D]``: ``[B, H, I, N]``."""
        i, kv_heads = query.shape[2], key.shape[1]
        q = (query * self.scores.scale).reshape(self.batch, kv_heads, -1, self.width)
        s = torch.matmul(q, key.transpose(-1, -2)).reshape(self.batch, self.heads, i, -1)
        cap = self.scores.softcap
        return s if cap is None else torch.tanh(s / cap) * cap

    def real_key(self) -> Tensor:
        """Keys in the dtype of the sweep, 0 where padded, ``[B, Hk, K, D]``."""
        return self.inputs.key.masked_fill(~self.key_real[:, None, :, None], 0.0)

    def lean(self, rows: slice) -> Tensor | None:
        """Mean over real rows of what is added to the scores of each key, ``[B, H, K]``; None where nothing is.

        Entries that hide (minus infinity) are left out of the mean; a key that all of them hide has -inf.
        """
        one, real = self.scores, self.query_real[:, rows]
        count = real.sum(1).clamp_min(1)
        lean = None
        if one.alibi is not None:
            at = self.layout.query_pos.expand(self.batch, -1)[:, rows].masked_fill(~real, 0).sum(1) / count
            gap = at[:, None] - self.layout.key_pos
            lean = -one.alibi.to(self.inputs.dtype)[None, :, None] * gap[:, None].to(self.inputs.dtype)
        if one.bias is not None:
            bias = self._bias(rows)
            counts = real[:, None, :, None] & (bias > HIDDEN)
            n = counts.sum(2)
            mean = bias.masked_fill(~counts, 0.0).sum(2) / n.clamp_min(1)
            mean = mean.masked_fill(n == 0, -torch.inf)
            lean = mean if lean is None else lean + mean
        return lean


def into_blocks(x: Tensor, block: int, fill: float) -> Tensor:
    """The last axis cut into blocks, ``[..., n] -> [..., ceil(n / block), block]``, filled up with `fill`."""
    short = -x.shape[-1] % block
    if short:
        x = torch.nn.functional.pad(x, (0, short), value=fill)
    return x.reshape(*x.shape[:-1], -1, block)
