"""What the pattern does to the values: z of a block, and its parts by group of keys."""

import torch
from torch import Tensor

from probe_kernels.block import Block, Inputs
from probe_kernels.ledger import Ledger, at


def weigh(block: Block, inputs: Inputs, member: Tensor | None = None) -> Tensor:
    """The z of a block, ``[b, h, rows, Dv]``, optionally of the keys where `member [b, keys]` is 1.

    A value that is not finite reaches only the rows that see its key, and is NaN there.
    """
    if inputs.value is None:
        raise ValueError("z was wanted, but the scores carry no value; give a value or Want(z=False)")
    keys = slice(block.heads.start // inputs.group, -(-block.heads.stop // inputs.group))
    v = inputs.value[block.batch, keys, block.chunk.keys]
    if member is not None:
        v = torch.where(member[:, None, :, None] > 0, v, 0.0)
    z = _grouped(block.p, v)
    if bool(z.isfinite().all()):
        return z
    bad = ~v.isfinite()
    z = _grouped(block.p, v.masked_fill(bad, 0.0))
    seen = at(block.chunk.visible(slice(0, block.chunk.n_keys)), block.batch)[:, None].expand(block.p.shape)
    if block.edited is not None:
        seen = seen | (block.p != 0)
    return z.masked_fill(_grouped(seen.to(inputs.dtype), bad.to(inputs.dtype)) > 0, torch.nan)


def _grouped(p: Tensor, v: Tensor) -> Tensor:
    b, h, rows, n = p.shape
    hk = v.shape[1]
    return torch.matmul(p.reshape(b, hk, h // hk * rows, n), v).reshape(b, h, rows, -1)


def add_parts(ledger: Ledger, block: Block, inputs: Inputs, name: str) -> None:
    """Fold z_g = Σ_{j in g} p v of one labelling into the ledger."""
    labels = ledger.labels[name]
    for group in range(labels.shape[-1]):
        member = at(labels, block.batch)[:, block.chunk.keys, group]
        ledger.out.parts[name][block.batch, block.heads, block.chunk.rows, group] = weigh(
            block, inputs, member
        )
