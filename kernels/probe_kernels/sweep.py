"""The blocked path: chunk by chunk over the queries, whole rows, every wanted statistic in the same sweep."""

from dataclasses import replace

import torch
from torch import Tensor

from probe_kernels import over_queries, tally
from probe_kernels.block import Block, Inputs, edit_scores, edited, normalise
from probe_kernels.chunks import Chunk, Ground
from probe_kernels.ledger import Ledger, at
from probe_kernels.types import Attended, Edits, Layout, Scores, Want

_BLOCK_NUMBERS = 2**21  # numbers in one block of the plain path: 8 MB in float32


def attend(scores: Scores, layout: Layout, want: Want, edits: Edits | None = None) -> Attended:
    """Blocked attention with statistics; see `probe_kernels.attend`."""
    inputs = Inputs.of(scores)
    ground = Ground(layout, scores.query.shape[2], scores.key.shape[2])
    ledger = Ledger(scores, ground, want, inputs.dtype)
    z = _plain(inputs, ledger, edits or Edits())
    out = ledger.close()
    out.z = z
    return out


def _plain(inputs: Inputs, ledger: Ledger, edits: Edits) -> Tensor | None:
    scores, want = inputs.scores, ledger.want
    batch, heads, _, _ = scores.query.shape
    size = max(1, min(256, _BLOCK_NUMBERS // (batch * heads * scores.key.shape[2])))
    zs = []
    for chunk in ledger.ground.chunks(size, want.table or 1):
        over_queries.count(ledger, chunk)
        block = form(inputs, ledger.ground, chunk, edits)
        if want.z:
            zs.append(weigh(block, inputs))
        with torch.no_grad():
            block = _detached(block)
            for name in want.parts:
                _parts(ledger, block, inputs, name)
            tally.add(ledger, block)
    if not want.z or scores.value is None:
        return None
    return torch.cat(zs, dim=2).to(scores.value.dtype)


def form(inputs: Inputs, ground: Ground, chunk: Chunk, edits: Edits) -> Block:
    """The block of a chunk for the whole batch and every head, edits applied."""
    batch, heads = inputs.scores.query.shape[:2]
    s = inputs.raw(chunk, ground.layout.query_pos, ground.layout.key_pos)
    s = edit_scores(s, chunk, edits)
    every = slice(0, heads)
    block = normalise(s, chunk, slice(0, batch), every, inputs.sinks(every, chunk.rows))
    return edited(block, edits) if edits.probs else block


def weigh(block: Block, inputs: Inputs, member: Tensor | None = None) -> Tensor:
    """z of a block, ``[b, h, rows, Dv]``, optionally of the keys where `member [b, keys]` is 1.

    A value that is not finite reaches only the rows that see its key, and is NaN there.
    """
    value = inputs.scores.value
    if value is None:
        raise ValueError("z was wanted, but the scores carry no value; give a value or Want(z=False)")
    keys = slice(block.heads.start // inputs.group, -(-block.heads.stop // inputs.group))
    v = value[block.batch, keys, block.chunk.keys].to(inputs.dtype)
    if member is not None:
        v = torch.where(member[:, None, :, None] > 0, v, 0.0)
    z = _grouped(block.p, v)
    if bool(z.isfinite().all()):
        return z
    bad = ~v.isfinite()
    z = _grouped(block.p, v.masked_fill(bad, 0.0))
    seen = at(block.chunk.visible(slice(0, block.chunk.n_keys)), block.batch)[:, None].expand(block.p.shape)
    if block.scores is None:
        seen = seen | (block.p != 0)
    return z.masked_fill(_grouped(seen.to(inputs.dtype), bad.to(inputs.dtype)) > 0, torch.nan)


def _grouped(p: Tensor, v: Tensor) -> Tensor:
    b, h, rows, n = p.shape
    hk = v.shape[1]
    return torch.matmul(p.reshape(b, hk, h // hk * rows, n), v).reshape(b, h, rows, -1)


def _parts(ledger: Ledger, block: Block, inputs: Inputs, name: str) -> None:
    labels = ledger.labels[name]
    for group in range(labels.shape[-1]):
        member = at(labels, block.batch)[:, block.chunk.keys, group]
        ledger.out.parts[name][block.batch, block.heads, block.chunk.rows, group] = weigh(
            block, inputs, member
        )


def _detached(block: Block) -> Block:
    if not block.p.requires_grad:
        return block
    scores = None if block.scores is None else block.scores.detach()
    sink_mass = None if block.sink_mass is None else block.sink_mass.detach()
    return replace(block, p=block.p.detach(), lse=block.lse.detach(), scores=scores, sink_mass=sink_mass)
