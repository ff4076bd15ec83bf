"""Which keys each block of queries looks at: what a sparse pattern leaves of a call, key by key."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visit:
    """Per block of `rows` queries, in storage order, the storage indices of its keys; all others are hidden from it.

    The call's own mask holds on top: a visit only narrows. ``index`` is int64 ``[b, h, blocks, width]``, b in {1, B}
    and h in {1, H}; indices ascend, and -1 fills up at the end.

    Raises `ValueError` where the shape is not that, or rows is not positive.
    """

    rows: int
    index: Tensor
    in_order: bool = field(
        default=False, repr=False, compare=False
    )  # made here of a mask, so that nobody need look

    def __post_init__(self) -> None:
        if self.rows < 1 or self.index.ndim != 4:
            raise ValueError(
                f"a visit of {self.rows} rows with an index of shape {tuple(self.index.shape)} was asked; give at "
                "least one row and [batch, heads, blocks, width]"
            )

    def require(self, batch: int, heads: int, n_query: int, n_key: int) -> None:
        """Raise `ValueError` where the visit does not fit a call of this size, or its lists are not in order."""
        index, blocks = self.index, -(-n_query // self.rows)
        b, h, found, _ = index.shape
        if b not in {1, batch} or h not in {1, heads} or found != blocks:
            raise ValueError(
                f"a visit of shape {tuple(index.shape)} with {self.rows} rows to a block was given for {batch} "
                f"sequences, {heads} heads and {n_query} queries; it needs "
                f"[1 or {batch}, 1 or {heads}, {blocks}, width]"
            )
        if index.numel() == 0 or (self.in_order and int(index.max()) < n_key):
            return
        low, high = (int(one) for one in index.aminmax())
        if low < -1 or high >= n_key:
            raise ValueError(
                f"a visit lists key {low if low < -1 else high}; the call has keys 0 to {n_key - 1}"
            )
        before, after = index[..., :-1], index[..., 1:]
        if bool(((after >= 0) & (after <= before) | (before < 0) & (after >= 0)).any()):
            raise ValueError("a visit lists keys out of order; list each once, ascending, with -1 at the end")

    @staticmethod
    def of_blocks(kept: Tensor, rows: int, block: int, n_key: int) -> "Visit":
        """From kept blocks of `block` keys, bool ``[b, h, query blocks, key blocks]``."""
        keys = torch.arange(kept.shape[3] * block, device=kept.device)
        chosen = kept.repeat_interleave(block, dim=3) & (keys < n_key)
        return Visit(rows, _listed(chosen, keys), in_order=True)

    @staticmethod
    def of_keys(kept: Tensor, rows: int) -> "Visit":
        """From kept keys, bool ``[b, h, query blocks, n_key]``."""
        return Visit(rows, _listed(kept, torch.arange(kept.shape[3], device=kept.device)), in_order=True)

    def kept(self, blocks: slice, n_key: int) -> Tensor:
        """Bool ``[b, h, blocks, n_key]``: the keys that some blocks of queries look at."""
        index = self.index[:, :, blocks]
        found = index.new_zeros((*index.shape[:3], n_key + 1), dtype=torch.bool)
        found.scatter_(3, torch.where(index < 0, n_key, index), value=True)
        return found[..., :n_key]

    def visible(self, rows: slice, keys: slice, n_key: int) -> Tensor:
        """Bool ``[b, h, rows, keys]``: the visit as a mask, for some rows and keys in storage order."""
        first, last = rows.start // self.rows, (rows.stop - 1) // self.rows + 1
        by_block = self.kept(slice(first, last), n_key)[..., keys]
        of_row = torch.arange(rows.start, rows.stop, device=self.index.device) // self.rows - first
        return by_block[:, :, of_row]


def _listed(chosen: Tensor, keys: Tensor) -> Tensor:
    """Bool ``[..., n]`` as the indices of its true entries, ascending, filled up with -1."""
    width = max(1, int(chosen.sum(-1).max()))
    order = torch.where(chosen, keys, keys.shape[0]).sort(dim=-1).values[..., :width]
    return torch.where(order < keys.shape[0], order, -1)
