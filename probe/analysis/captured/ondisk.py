"""A capture opened from its folder: arrays are read from their shards when they are indexed."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from xarray.core import indexing

from probe.analysis.captured.kinds import KINDS
from probe.analysis.captured.lazy import Lazy
from probe.analysis.captured.pieces import (
    Extent,
    Labels,
    Piece,
    Slot,
    join,
    joined,
    labelled,
    long_axis,
    whole_shape,
)
from probe.analysis.captured.result import Captured
from probe.errors import ReportError

INDEX = "capture.json"
Stored = tuple[dict[str, Any], Extent]  # where a piece lies, and what it holds


class CapturedOnDisk(Captured):
    """A capture in a folder; indexing an array reads only the layers, and within a layer the cells, that it names."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _index(self.folder)
        super().__init__(_OnDisk(self.folder, index), tuple(index["notes"]))


def open_capture(folder: str | Path) -> CapturedOnDisk:
    """A capture that was written with ``to=``; raises `ReportError` where the folder holds no finished one."""
    return CapturedOnDisk(folder)


class _OnDisk:
    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self._folder = folder
        self._tokens = [tuple(one) for one in index["tokens"]]
        self._entries = {
            Slot(one["name"], one["prompt"], one["tower"], one["layer"]): one for one in index["slots"]
        }

    def slots(self) -> list[Slot]:
        return list(self._entries)

    def array(self, slot: Slot) -> xr.DataArray:
        entry = self._entries[slot]
        pieces = entry["pieces"]
        extents = [Extent(tuple(p["heads"]), unpack(p["rows"]), unpack(p["keys"])) for p in pieces]
        extent = joined(slot.name, extents)
        said = entry["labels"]
        rows, keys = (None if said[side] is None else self._tokens[said[side]] for side in ("rows", "keys"))
        labels = Labels(rows, keys, said["attrs"])
        shape = whole_shape(slot.name, [p["shape"] for p in pieces], extent)

        read = partial(self._cells, slot.name, list(zip(pieces, extents, strict=True)), extent)
        lazy = Lazy(shape, np.dtype(pieces[0]["dtype"]), read)
        return labelled(slot, indexing.LazilyIndexedArray(lazy), extent, labels)

    def _cells(self, name: str, pieces: list[Stored], whole: Extent, key: tuple[Any, ...]) -> Any:
        """The cells that `key` names: rows are read from the pieces that hold them, then NumPy does the rest."""
        axis = long_axis(name)
        lengths = [piece["shape"][axis] for piece, _ in pieces]
        wanted = key[axis]
        span = range(*wanted.indices(sum(lengths))) if isinstance(wanted, slice) else [int(wanted)]
        low, high = (min(span), max(span) + 1) if len(span) else (0, 0)
        parts: list[Piece] = []
        start = 0
        for (piece, extent), length in zip(pieces, lengths, strict=True):
            part = slice(max(low - start, 0), min(high - start, length))
            if part.start < part.stop or (not len(span) and not parts):
                parts.append(Piece(self._read(piece, axis, part), _part(name, extent, part)))
            start += length
        values = join(name, parts, whole.keys if KINDS[name].fill is not None else None)
        if isinstance(wanted, slice):
            values = values.take([i - low for i in span], axis=axis)
            return values[(*key[:axis], slice(None), *key[axis + 1 :])]
        return values[(*key[:axis], 0, *key[axis + 1 :])]

    def _read(self, piece: dict[str, Any], axis: int, part: slice) -> np.ndarray:
        path = self._folder / piece["shard"]
        try:
            with safe_open(path, framework="numpy") as shard:
                if part == slice(0, piece["shape"][axis]):
                    whole: np.ndarray = shard.get_tensor(piece["key"])
                    return whole
                stored = shard.get_slice(piece["key"])
                cells: np.ndarray = stored[
                    (*[slice(None)] * axis, slice(part.start, max(part.start, part.stop)))
                ]
                return cells
        except (OSError, SafetensorError) as error:
            raise ReportError(f"{path} was to be read; that failed ({error}): capture again") from error


def _part(name: str, extent: Extent, part: slice) -> Extent:
    return (
        replace(extent, keys=extent.keys[part])
        if name in ("k", "v")
        else replace(extent, rows=extent.rows[part])
    )


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReportError(
            f"{folder} was asked to be opened; it holds no finished capture ({INDEX} is missing): capture again"
        ) from error
    except (OSError, ValueError) as error:
        raise ReportError(f"{folder / INDEX} was to be read; that failed ({error}): capture again") from error
    if not isinstance(index, dict) or index.get("schema") != 1:
        raise ReportError(
            f"{folder / INDEX} has a form that this version does not read: use the one that wrote it"
        )
    return index


def pack(index: np.ndarray) -> list[int] | dict[str, int]:
    """Indices as JSON: a run of neighbours as its two ends."""
    if len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return {"start": int(index[0]), "stop": int(index[0]) + len(index)}
    return [int(one) for one in index]


def unpack(packed: list[int] | dict[str, int]) -> np.ndarray:
    """The indices that `pack` wrote."""
    if isinstance(packed, dict):
        return np.arange(packed["start"], packed["stop"])
    return np.asarray(packed, dtype=np.int64)
