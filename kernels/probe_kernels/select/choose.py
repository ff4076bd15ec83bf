"""From estimates to what is kept: the largest few, the fewest that hold a share, and what is kept in any case."""

import torch
from torch import Tensor

from probe_kernels.select.base import Selection
from probe_kernels.select.sight import Sight, into_blocks
from probe_kernels.visit import Visit


def largest(values: Tensor, k: int) -> Tensor:
    """The `k` largest along the last axis, bool; the first of equals, and never -inf. The same on every device."""
    bar = values.topk(min(k, values.shape[-1]), dim=-1).values[..., -1:]
    above = values > bar
    equal = (values == bar) & (values > -torch.inf)
    room = k - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def indices_of_largest(values: Tensor, k: int) -> Tensor:
    """The indices of `largest`, ascending, int64 ``[..., min(k, n)]`` with -1 = none."""
    n = values.shape[-1]
    k = min(k, n)
    top = values.topk(k, dim=-1)
    bar = top.values[..., -1:]
    if bool(((values >= bar).sum(-1) > k).logical_and(bar[..., 0] > -torch.inf).any()):
        return _listed(largest(values, k), k)  # equals at the bar: which of them topk takes is not said
    index = torch.where(top.values > -torch.inf, top.indices, n).sort(dim=-1).values
    return torch.where(index < n, index, -1)


def _listed(kept: Tensor, width: int) -> Tensor:
    out = torch.full((*kept.shape[:-1], width), -1, dtype=torch.int64, device=kept.device)
    *row, at = kept.nonzero(as_tuple=True)
    out[(*row, kept.cumsum(-1)[kept] - 1)] = at
    return out


def fewest(share: Tensor, tau: float, among: Tensor) -> Tensor:
    """The fewest along the last axis of `share` (each sums to 1 or to 0) that together hold `tau`, bool.

    Kept is whatever is reached in descending order while less than tau is held; ``tau=1`` keeps all `among`.
    """
    if tau >= 1:
        return among.expand_as(share)
    falling = share.double().sort(dim=-1, descending=True, stable=True)
    before = falling.values.cumsum(-1) - falling.values
    kept = torch.zeros_like(falling.indices, dtype=torch.bool)
    return kept.scatter(-1, falling.indices, before < tau) & among & (share > 0)


def chosen(share: Tensor, among: Tensor, forced: Tensor, k: int | None, tau: float | None) -> Tensor:
    """Blocks by count (the forced are counted) or by share of the mass (the forced come on top), bool.

    `share`, `among` and `forced` broadcast to ``[B, H, I, J]``; nothing outside `among` is kept.
    """
    forced = forced & among
    if k is not None:
        values = share.masked_fill(~among, -torch.inf).masked_fill(forced, torch.inf)
        return largest(values, k) | forced
    return fewest(share, 1.0 if tau is None else tau, among) | forced


def softmax_of_visible(scores: Tensor) -> Tensor:
    """Softmax along the last axis where -inf is hidden; a row with nothing visible is 0."""
    dead = scores.amax(-1, keepdim=True) == -torch.inf
    return torch.softmax(scores.masked_fill(dead, 0.0), dim=-1).masked_fill(dead, 0.0)


def forced_blocks(sight: Sight, rows: int, block: int, *, first: bool, diagonal: bool) -> Tensor:
    """The blocks of `block` keys with the first real key, and with each query block's own tokens: ``[B, 1, I, J]``."""
    kept = torch.zeros(sight.batch, -(-sight.n_query // rows), -(-sight.n_key // block), dtype=torch.bool)
    kept = kept.to(sight.device)
    if first:
        kept = kept | into_blocks(sight.first_keys(1), block, False).any(-1)[:, None]
    if diagonal:
        kept = kept | into_blocks(sight.own_keys(rows), block, False).any(-1)
    return kept[:, None]


def forced_keys(sight: Sight, rows: int, block: int, *, first: bool, diagonal: bool) -> Tensor:
    """The keys of `forced_blocks`, bool ``[B, 1, I, K]``."""
    kept = forced_blocks(sight, rows, block, first=first, diagonal=diagonal)
    return kept.repeat_interleave(block, dim=-1)[..., : sight.n_key]


def everything(sight: Sight) -> Selection:
    """A selection that keeps every key, for calls too short to be cut into blocks."""
    keys = torch.arange(sight.n_key, device=sight.device)
    return Selection(visit=Visit(sight.n_query, keys[None, None, None]))
