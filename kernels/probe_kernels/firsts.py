"""Mass on the first n keys that a row sees, in order of position."""

import torch
from torch import Tensor

from probe_kernels.block import Block
from probe_kernels.chunks import Chunk


def first_masses(block: Block, counts: tuple[int, ...], key_pos: Tensor | None) -> dict[int, Tensor]:
    """Per n, masses ``[b, h, rows]``; `key_pos` is given where storage order is not the order of positions."""
    chunk = block.chunk
    most = min(max(counts), chunk.n_keys)
    full = not chunk.edges or chunk.local(chunk.edges[0]).start >= most
    if key_pos is None and (full or chunk.once(("prefix", most), lambda: _sees_a_prefix(chunk, most))):
        return {n: block.p[..., : min(n, chunk.n_keys)].sum(-1) for n in counts}
    seen = chunk.visible(slice(0, chunk.n_keys))
    if seen.shape[0] > 1:
        seen = seen[block.batch]
    p = block.p
    if key_pos is not None:
        order = key_pos[:, chunk.keys].argsort(dim=-1, stable=True)
        order = order if order.shape[0] == 1 else order[block.batch]
        order = order.expand(max(order.shape[0], seen.shape[0]), -1)
        seen = seen.expand(order.shape[0], -1, -1).gather(2, order[:, None].expand(-1, seen.shape[1], -1))
        p = p.gather(3, order[:, None, None].expand(*p.shape))
    rank = seen.cumsum(-1)
    return {n: torch.where((seen & (rank <= n))[:, None], p, 0.0).sum(-1) for n in counts}


def _sees_a_prefix(chunk: Chunk, most: int) -> bool:
    """Whether the first `most` columns hold every row's first visible keys, as at the start of a causal sequence."""
    seen = chunk.visible(slice(0, most))
    if not bool((seen[..., 1:] <= seen[..., :-1]).all()):
        return False
    total = chunk.count_visible()
    return bool((seen[..., -1] | (seen.sum(-1) == total)).all())
