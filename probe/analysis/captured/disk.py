"""Captured arrays on the disk: pieces in safetensors shards as they come, then one index that makes them a capture.

Every file is written under a temporary name and renamed. The index comes last: a folder without one is an
unfinished capture and is never opened as a whole one. A capture that fails takes its shards away again.
"""

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from safetensors.numpy import save

from probe.analysis.captured.ondisk import INDEX, CapturedOnDisk, pack
from probe.analysis.captured.pieces import Labels, Piece, Slot, join, joined
from probe.analysis.files import replace_file
from probe.errors import BudgetError, OutputError

SHARD_BYTES = 2**26  # a shard is written once it holds so much


class DiskStore:
    """Writes pieces to shards of about `SHARD_BYTES` in an empty folder; memory holds one shard at most."""

    def __init__(self, folder: str | Path, needed: int) -> None:
        self.folder = Path(folder)
        self._buffer: dict[Slot, list[Piece]] = {}
        self._bytes = 0
        self._written: list[str] = []
        self._slots: dict[Slot, list[dict[str, Any]]] = {}
        self._labels: dict[Slot, Labels] = {}
        self._finished = False
        self._made = not self.folder.exists()
        _check_folder(self.folder, needed)

    def __enter__(self) -> "DiskStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take away what an unfinished capture wrote, so that the folder can be used again."""
        if self._finished:
            return
        for name in self._written:
            (self.folder / name).unlink(missing_ok=True)
        if self._made and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def add(self, slot: Slot, piece: Piece) -> None:
        """Take one piece; full shards are written at once."""
        self._slots.setdefault(slot, [])
        self._buffer.setdefault(slot, []).append(piece)
        self._bytes += piece.values.nbytes
        if self._bytes >= SHARD_BYTES:
            self._flush()

    def label(self, slot_labels: dict[Slot, Labels]) -> None:
        """Remember the labels of an item that is done."""
        self._labels |= slot_labels

    @property
    def open_slots(self) -> list[Slot]:
        """Arrays that are not labelled yet."""
        return [slot for slot in self._slots if slot not in self._labels]

    def finish(self, notes: tuple[str, ...]) -> CapturedOnDisk:
        """Write the last shard and the index, and open the whole."""
        self._flush()
        tokens: dict[tuple[str, ...], int] = {}
        slots = [
            {**slot._asdict(), "pieces": pieces, "labels": _labels(self._labels[slot], tokens)}
            for slot, pieces in self._slots.items()
        ]
        index = {"schema": 1, "notes": list(notes), "tokens": [list(one) for one in tokens], "slots": slots}
        replace_file(self.folder / INDEX, json.dumps(index).encode())
        self._finished = True
        return CapturedOnDisk(self.folder)

    def _flush(self) -> None:
        """Write a shard; the pieces of one array in it are joined, so that a step is not a tensor of its own."""
        if not self._buffer:
            return
        shard = f"shard-{len(self._written):05d}.safetensors"
        arrays: dict[str, np.ndarray] = {}
        for slot, pieces in self._buffer.items():
            key = "/".join(map(str, slot))
            values = np.ascontiguousarray(join(slot.name, pieces))
            extent = joined(slot.name, [piece.extent for piece in pieces])
            where = {"shard": shard, "key": key, "shape": list(values.shape), "dtype": str(values.dtype)}
            held = {"heads": list(extent.heads), "rows": pack(extent.rows), "keys": pack(extent.keys)}
            self._slots[slot].append({**where, **held})
            arrays[key] = values
        self._written.append(shard)
        replace_file(self.folder / shard, save(arrays))
        self._buffer, self._bytes = {}, 0


def _labels(labels: Labels, tokens: dict[tuple[str, ...], int]) -> dict[str, Any]:
    """Labels as JSON; token strings are said once and shared by number."""
    rows = None if labels.row_tokens is None else tokens.setdefault(labels.row_tokens, len(tokens))
    keys = None if labels.key_tokens is None else tokens.setdefault(labels.key_tokens, len(tokens))
    return {"rows": rows, "keys": keys, "attrs": labels.attrs}


def _check_folder(folder: Path, needed: int) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"to={str(folder)!r} was asked; it is a file: give a folder")
        folder.mkdir(parents=True, exist_ok=True)
        found = next(folder.iterdir(), None)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(
            f"to={str(folder)!r} was asked; it cannot be used ({error}): give another folder"
        ) from error
    if found is not None:
        unfinished = found.name.startswith("shard-") and not (folder / INDEX).exists()
        what = "an unfinished capture" if unfinished else f"{found.name}"
        raise OutputError(f"to={str(folder)!r} was asked; it holds {what}: give an empty folder")
    if needed > free:
        raise BudgetError(
            f"to={str(folder)!r} was asked; the capture needs {needed:,} bytes and the disk has {free:,} left: "
            "ask for less, or give a folder on another disk"
        )
