"""One block of the pattern: whole rows of one chunk for some batch rows and heads, as weights and normalisers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_kernels.chunks import Chunk
from probe_kernels.types import Edits, Scores

HIDDEN = -1e30  # a score at or below it counts as hidden; finite, so that 0 · HIDDEN is 0 and not NaN


@dataclass
class Block:
    """Weights of whole rows: p = weight · inverse. Batch and heads are slices of the call's."""

    chunk: Chunk
    batch: slice
    heads: slice
    weight: Tensor  # [b, h, rows, keys], 0 where hidden
    inverse: Tensor  # [b, h, rows], 0 where the row sees no key
    lse: Tensor  # [b, h, rows], with the sink; -inf where the row sees no key
    scores: Tensor | None  # [b, h, rows, keys]; None when the probabilities were edited
    sink_mass: Tensor | None = None  # [b, h, rows]
    clean: bool = True  # every weight is finite, so that sums over rows may be taken as products

    @property
    def flat(self) -> Tensor:
        """Weights as ``[b, heads · rows, keys]``."""
        b, h, r, n = self.weight.shape
        return self.weight.reshape(b, h * r, n)

    def linear(self, columns: Tensor) -> Tensor:
        """Σ_j p_ij·columns_j for ``columns [b or 1, keys, C]``: ``[b, h, rows, C]``."""
        b, h, r, _ = self.weight.shape
        if columns.shape[0] == 1:
            flat = self.weight.reshape(b * h * r, -1)
            out = torch.mv(flat, columns[0, :, 0]) if columns.shape[2] == 1 else torch.mm(flat, columns[0])
        else:
            out = torch.matmul(self.flat, columns)
        return out.reshape(b, h, r, -1) * self.inverse[..., None]


@dataclass(frozen=True)
class Inputs:
    """q, k, v of a call in the dtype of the sweep; k and v are cast when they are cut, so that no copy is kept."""

    scores: Scores
    dtype: torch.dtype

    @staticmethod
    def of(scores: Scores) -> "Inputs":
        """Float64 inputs stay float64, everything else is swept in float32."""
        wide = scores.query.dtype == torch.float64
        return Inputs(scores, torch.float64 if wide else torch.float32)

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.scores.query.shape[1] // self.scores.key.shape[1]

    def raw(self, chunk: Chunk, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        """Scores of a chunk for the whole batch and every head, ``[B, H, rows, keys]``, HIDDEN where hidden."""
        one = self.scores
        batch, heads, _, d = one.query.shape
        q = one.query[:, :, chunk.rows].to(self.dtype) * one.scale
        k = one.key[:, :, chunk.keys].to(self.dtype)
        q = q.reshape(batch, k.shape[1], self.group * chunk.n_rows, d)
        s = torch.matmul(q, k.transpose(-1, -2)).reshape(batch, heads, chunk.n_rows, chunk.n_keys)
        if one.softcap is not None:
            s = torch.tanh(s / one.softcap) * one.softcap
        if one.bias is not None:
            s = s + self.bias(chunk)
        if one.alibi is not None:
            gap = query_pos[:, None, chunk.rows, None] - key_pos[:, None, None, chunk.keys]
            s = s - one.alibi.to(self.dtype)[None, :, None, None] * gap
        if one.bias is not None:
            s = s.clamp(min=HIDDEN)
        return hide(s, chunk, HIDDEN)

    def bias(self, chunk: Chunk, heads: slice | None = None, batch: slice | None = None) -> Tensor:
        """The bias of a block, broadcast but not copied."""
        one = self.scores
        if one.bias is None:
            raise ValueError("these scores carry no bias")
        size = (*one.query.shape[:3], one.key.shape[2])
        bias = one.bias.expand(size)[:, :, chunk.rows, chunk.keys]
        if heads is not None:
            bias = bias[:, heads]
        return (bias if batch is None else bias[batch]).to(self.dtype)

    def sinks(self, heads: slice) -> Tensor | None:
        """Sink logits of some heads, ``[h, 1]``."""
        sinks = self.scores.sinks
        return None if sinks is None else sinks[heads].to(self.dtype)[:, None]


def hide(block: Tensor, chunk: Chunk, value: float) -> Tensor:
    """The block with `value` at its hidden keys (a copy where autograd needs one)."""
    for edge in chunk.edges:
        at = chunk.local(edge)
        part = block[..., at].masked_fill(edge.hidden[:, None], value)
        if block.requires_grad:
            block = torch.cat((block[..., : at.start], part, block[..., at.stop :]), dim=-1)
        else:
            block[..., at] = part
    return block


def normalise(s: Tensor, chunk: Chunk, batch: slice, heads: slice, sinks: Tensor | None) -> Block:
    """Softmax of scores with the row maximum taken off first; safe for any scores."""
    shift = s.detach().amax(-1, keepdim=True).clamp_min(HIDDEN / 10)
    weight = torch.exp(s - shift)
    total = weight.sum(-1)
    clean = bool(total.isfinite().all())
    if not clean:
        weight = hide(weight, chunk, 0.0)
    lse, inverse, sink_mass = close(total, shift[..., 0], sinks)
    return Block(chunk, batch, heads, weight, inverse, lse, s, sink_mass, clean)


def close(total: Tensor, shift: Tensor | float, sinks: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """From row sums of e^{s - shift}: lse with the sink, what turns weights into probabilities, and the sink's mass."""
    empty = total == 0
    inverse = total.reciprocal().masked_fill(empty, 0.0)
    lse = (total.log() + shift).masked_fill(empty, -torch.inf)
    if sinks is None:
        return lse, inverse, None
    kept = torch.sigmoid(lse - sinks)
    whole = torch.logaddexp(lse, sinks.expand_as(lse))
    return whole, inverse * kept, torch.sigmoid(sinks - lse)


def edited(block: Block, edits: Edits) -> Block:
    """The block after edits of its probabilities; its weights are the probabilities then."""
    p = block.weight * block.inverse[..., None]
    for edit in edits.probs:
        p = edit(p, block.chunk.rows, block.chunk.keys)
    ones = torch.ones_like(block.inverse)
    clean = bool(p.isfinite().all())
    return Block(block.chunk, block.batch, block.heads, p, ones, block.lse, None, block.sink_mass, clean)


def edit_scores(s: Tensor, chunk: Chunk, edits: Edits) -> Tensor:
    """Scores after the edits, which see -inf at hidden keys; hidden keys are hidden again afterwards."""
    if not edits.scores:
        return s
    s = torch.where(s <= HIDDEN, -torch.inf, s)
    for edit in edits.scores:
        s = edit(s, chunk.rows, chunk.keys)
    return hide(s.clamp(min=HIDDEN), chunk, HIDDEN)
