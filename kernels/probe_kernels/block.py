"""One block of the pattern: whole rows of one chunk for some batch rows and heads, as weights and normalisers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probe_kernels.chunks import HIDDEN, Chunk
from probe_kernels.types import Edits, Scores


@dataclass
class Block:
    """Probabilities of whole rows. Batch and heads are slices of the call's."""

    chunk: Chunk
    batch: slice
    heads: slice
    p: Tensor  # [b, h, rows, keys], 0 where hidden
    lse: (
        Tensor | None
    )  # [b, h, rows], with the sink; -inf where the row sees no key; None: somebody else keeps it
    scores: Tensor | None  # [b, h, rows, keys]; None: nobody here needs them
    sink_mass: Tensor | None = None  # [b, h, rows]
    clean: bool = True  # every p is finite, so that sums over rows may be taken as products
    edited: Tensor | None = None  # indices of the heads whose p is no longer exp(s - lse); None: no head

    def linear(self, columns: Tensor) -> Tensor:
        """Σ_j p_ij·columns_j for ``columns [b or 1, keys, C]``: ``[b, h, rows, C]``."""
        b, h, r, n = self.p.shape
        if columns.shape[0] == 1:
            flat = self.p.reshape(b * h * r, n)
            out = torch.mv(flat, columns[0, :, 0]) if columns.shape[2] == 1 else torch.mm(flat, columns[0])
        else:
            out = torch.matmul(self.p.reshape(b, h * r, n), columns)
        return out.reshape(b, h, r, -1)


@dataclass(frozen=True)
class Inputs:
    """A call's scores, with k and v in the dtype of the sweep: float64 stays float64, all else is float32."""

    scores: Scores
    dtype: torch.dtype
    key: Tensor
    value: Tensor | None

    @staticmethod
    def of(scores: Scores) -> "Inputs":
        """The inputs of a call; float32 tensors are not copied."""
        dtype = torch.float64 if scores.query.dtype == torch.float64 else torch.float32
        value = None if scores.value is None else scores.value.to(dtype)
        return Inputs(scores, dtype, scores.key.to(dtype), value)

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.scores.query.shape[1] // self.scores.key.shape[1]

    def raw(self, chunk: Chunk, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        """Scores of a chunk for the whole batch and every head, ``[B, H, rows, keys]``, HIDDEN where hidden."""
        one = self.scores
        batch, heads, _, d = one.query.shape
        q = one.query[:, :, chunk.rows].to(self.dtype) * one.scale
        k = self.key[:, :, chunk.keys]
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

    def sinks(self, heads: slice, rows: slice) -> Tensor | None:
        """Sink logits of some heads, ``[h, 1]``, or ``[b, h, rows]`` where they differ by query."""
        sinks = self.scores.sinks
        return None if sinks is None else of_block(sinks, slice(None), heads, rows).to(self.dtype)


def of_block(sinks: Tensor, batch: slice, heads: slice, rows: slice) -> Tensor:
    """The sink logits that a block needs, so that they broadcast to ``[b, h, rows]``."""
    return sinks[heads][:, None] if sinks.ndim == 1 else sinks[batch, heads, rows]


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
    """Softmax of scores, with the sinks' share taken off; safe for any scores."""
    p = torch.softmax(s, dim=-1)
    top = s.amax(-1)
    lse = top - p.amax(-1).log()
    clean = bool(lse.isfinite().all())
    empty = top <= HIDDEN / 10
    if not clean:
        p = hide(p, chunk, 0.0)
    if bool(empty.any()):
        p = p.masked_fill(empty[..., None], 0.0)
        lse = lse.masked_fill(empty, -torch.inf)
    if sinks is None:
        return Block(chunk, batch, heads, p, lse, s, None, clean)
    lse, kept, sink_mass = with_sink(lse, sinks)
    return Block(chunk, batch, heads, p * kept[..., None], lse, s, sink_mass, clean)


def with_sink(lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the keys' lse: lse with the sink, the keys' share of the mass, and the sink's."""
    whole = torch.logaddexp(lse, sinks.expand_as(lse))
    return whole, torch.sigmoid(lse - sinks), torch.sigmoid(sinks - lse)


def edit_probs(block: Block, edits: Edits) -> Block:
    """The block after edits of its probabilities and of its sinks' mass."""
    p, sink_mass, rows, keys = block.p, block.sink_mass, block.chunk.rows, block.chunk.keys
    for edit in edits.probs:
        p = _on_heads(p, edit.heads, edit.apply, rows, keys)
        if sink_mass is not None and edit.sinks is not None:
            sink_mass = _on_heads(sink_mass, edit.heads, edit.sinks, rows)
    heads = torch.tensor(Edits(probs=edits.probs).heads(p.shape[1]), dtype=torch.int64, device=p.device)
    return replace(block, p=p, sink_mass=sink_mass, edited=heads, clean=bool(p.isfinite().all()))


def edit_scores(s: Tensor, chunk: Chunk, edits: Edits) -> Tensor:
    """Scores after the edits, each of which sees -inf at hidden keys; hidden keys are hidden again afterwards."""
    if not edits.scores:
        return s
    s = torch.where(s <= HIDDEN, -torch.inf, s)
    for number, edit in enumerate(edits.scores):
        if number:
            s = hide(s.clone(), chunk, -torch.inf)
        s = _on_heads(s, edit.heads, edit.apply, chunk.rows, chunk.keys)
    return hide(s.clamp(min=HIDDEN), chunk, HIDDEN)


def _on_heads(
    whole: Tensor, heads: tuple[int, ...] | None, change: Callable[..., Tensor], *place: slice
) -> Tensor:
    """The tensor with the part of some heads (axis 1) changed."""
    if heads is None or heads == tuple(range(whole.shape[1])):
        return _of_shape(change(whole, *place), whole)
    if not heads:
        return whole
    index = torch.tensor(heads, dtype=torch.int64, device=whole.device)
    part = whole.index_select(1, index)
    return whole.index_copy(1, index, _of_shape(change(part, *place), part))


def _of_shape(found: Tensor, given: Tensor) -> Tensor:
    if found.shape != given.shape:
        raise ValueError(
            f"an edit was given a block of shape {tuple(given.shape)} and returned {tuple(found.shape)}; "
            "it must return the shape that it is given"
        )
    return found.to(given.dtype)
