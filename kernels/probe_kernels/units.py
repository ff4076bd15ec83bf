"""Cuts a visit into dense calls: neighbouring blocks and heads with the same list go together."""

from collections.abc import Iterator

import torch
from torch import Tensor

from probe_kernels.gathered import Lists, Unit, split
from probe_kernels.visit import Visit

_CALL = 2**18  # pairs that cost what one more call costs


def shared(visit: Visit, heads: int, kv_heads: int) -> tuple[Tensor, int]:
    """The index ``[b, L, blocks, width]`` without repeated lists, and their number L: 1, key heads or heads."""
    index = visit.index
    if index.shape[3] == 0:
        index = index.new_full((*index.shape[:3], 1), -1)
    if index.shape[1] == 1 or _alike(index):
        return index[:, :1], 1
    by_group = split(index, 1, kv_heads)
    if _alike(by_group.flatten(0, 1)):
        return by_group[:, :, 0], kv_heads
    return index, heads


def _alike(index: Tensor) -> bool:
    """Whether all lists along axis 1 are the same; the last block tells most that are not."""
    last = index[:, :, -1]
    return bool((last == last[:, :1]).all()) and bool((index == index[:, :1]).all())


def units(lists: Lists, index: Tensor, rows: int, table: int) -> Iterator[Unit]:
    """The dense calls of an index ``[b, L, blocks, width]``; with a table their keys are whole blocks of it."""
    n_query, n_key = lists.scores.query.shape[2], lists.scores.key.shape[2]
    counts = (index >= 0).sum(-1).amax(0)  # [L, blocks]
    sizes = counts.T.tolist()
    for first, last in _joined(index):
        part = slice(first * rows, min((last + 1) * rows, n_query))
        for pick, width in _of_like_length(sizes[first], _CALL // (lists.heads * (part.stop - part.start))):
            chosen = index[:, pick, first, : max(width, 1)]
            yield Unit(
                lists, part, pick, *(_whole_blocks(chosen, table, n_key) if table else _filled(chosen))
            )


def _joined(index: Tensor) -> Iterator[tuple[int, int]]:
    """Runs of blocks, first and last, that have the same lists."""
    ends = index.amax(-1)  # most lists that differ end at different keys
    same = (ends[..., 1:] == ends[..., :-1]).flatten(0, 1).all(0).tolist()
    first = 0
    for block, maybe in enumerate([*same, False]):
        if not (maybe and torch.equal(index[:, :, block], index[:, :, block + 1])):
            yield first, block
            first = block + 1


def _of_like_length(sizes: list[int], call: int) -> Iterator[tuple[list[int], int]]:
    """Lists by length, longest first, each run with its longest length.

    A run ends where filling up the rest to its length would cost more than a `call` (in keys).
    """
    order = sorted(range(len(sizes)), key=lambda one: -sizes[one])
    pick: list[int] = []
    for number, one in enumerate(order):
        if pick and (sizes[pick[0]] - sizes[one]) * (len(order) - number) > call:
            yield sorted(pick), sizes[pick[0]]
            pick = []
        pick.append(one)
    yield sorted(pick), sizes[pick[0]]


def _filled(index: Tensor) -> tuple[Tensor, Tensor | None]:
    """An index without -1, and what of it was listed."""
    listed = index >= 0
    if bool(listed.all()):
        return index, None
    last = index.amax(-1, keepdim=True).clamp_min(0)
    return torch.where(listed, index, last), listed


def _whole_blocks(index: Tensor, size: int, n_key: int) -> tuple[Tensor, Tensor]:
    """All keys of the touched blocks of `size` keys, and what of them was listed; ``[b, m, blocks * size]``."""
    number = -(-n_key // size)
    kept = index.new_zeros((*index.shape[:2], number * size + 1), dtype=torch.bool)
    kept.scatter_(2, torch.where(index < 0, number * size, index), value=True)
    kept = kept[..., :-1]
    touched = Visit.of_keys(kept.view(*kept.shape[:2], number, size).any(-1)[:, :, None], 1).index[:, :, 0]
    known = touched >= 0
    keys = touched.clamp_min(0)[..., None] * size + torch.arange(size, device=index.device)
    listed = kept.gather(2, keys.flatten(2)) & known.repeat_interleave(size, dim=-1)
    return keys.flatten(2).clamp_max(n_key - 1), listed
