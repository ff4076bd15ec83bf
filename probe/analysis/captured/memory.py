"""Captured arrays that stay in memory."""

from types import TracebackType

import xarray as xr

from probe.analysis.captured.pieces import Labels, Piece, Slot, join, joined, labelled
from probe.analysis.captured.result import Captured
from probe.errors import BudgetError


class MemoryStore:
    """Collects pieces and joins them at the end; refuses to hold more than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pieces: dict[Slot, list[Piece]] = {}
        self._arrays: dict[Slot, xr.DataArray] = {}

    def __enter__(self) -> "MemoryStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.clear()

    def add(self, slot: Slot, piece: Piece) -> None:
        """Take one piece; raises `BudgetError` when the whole has grown beyond the budget."""
        self._bytes += piece.values.nbytes
        if self._bytes > self._max_bytes:
            raise BudgetError(
                f"{slot.name} was being captured; {self._bytes:,} bytes were reached, more than "
                f"max_bytes={self._max_bytes:,}: ask for less, raise max_bytes, or write with to='DIR'"
            )
        self._pieces.setdefault(slot, []).append(piece)

    def label(self, slot_labels: dict[Slot, Labels]) -> None:
        """Join and label the arrays of an item that is done."""
        for slot, labels in slot_labels.items():
            pieces = self._pieces.pop(slot)
            extent = joined(slot.name, [piece.extent for piece in pieces])
            self._arrays[slot] = labelled(slot, join(slot.name, pieces), extent, labels)

    @property
    def open_slots(self) -> list[Slot]:
        """Arrays that are not labelled yet."""
        return list(self._pieces)

    def finish(self, notes: tuple[str, ...]) -> Captured:
        """Everything, labelled."""
        return Captured(_InMemory(self._arrays), notes)


class _InMemory:
    def __init__(self, arrays: dict[Slot, xr.DataArray]) -> None:
        self._arrays = arrays

    def slots(self) -> list[Slot]:
        return list(self._arrays)

    def array(self, slot: Slot) -> xr.DataArray:
        return self._arrays[slot]
