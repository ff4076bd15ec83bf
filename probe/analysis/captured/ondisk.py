"""A capture opened from its folder: arrays are read from their shards when they are indexed. Imports no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from xarray.core import indexing

from probe.analysis.captured.lazy import Lazy
from probe.analysis.captured.pieces import Extent, Labels, Piece, Slot, join, joined, labelled, whole_shape
from probe.analysis.captured.result import Captured
from probe.errors import ReportError

INDEX = "capture.json"


class CapturedOnDisk(Captured):
    """A capture in a folder; indexing an array reads only the layers, and within a layer the cells, that it names."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _index(self.folder)
        super().__init__(_OnDisk(self.folder, index), tuple(index["notes"]))


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

        def read(key: tuple[Any, ...]) -> Any:
            if len(pieces) == 1:
                return self._read(pieces[0], key)
            parts = [Piece(self._read(p, ...), e) for p, e in zip(pieces, extents, strict=True)]
            return join(slot.name, parts)[key]

        lazy = Lazy(shape, np.dtype(pieces[0]["dtype"]), read)
        return labelled(slot, indexing.LazilyIndexedArray(lazy), extent, labels)

    def _read(self, piece: dict[str, Any], key: Any) -> Any:
        path = self._folder / piece["shard"]
        try:
            with safe_open(path, framework="numpy") as shard:
                if key is ...:
                    return shard.get_tensor(piece["key"])
                return _cells(shard.get_slice(piece["key"]), key)
        except (OSError, SafetensorError) as error:
            raise ReportError(f"{path} was to be read; that failed ({error}): capture again") from error


def _cells(stored: Any, key: tuple[Any, ...]) -> Any:
    """Cells of a stored tensor; its slices know neither steps other than 1 nor negative numbers, so NumPy finishes."""
    shape = stored.get_shape()
    cover, rest = [], []
    for one, n in zip(key, shape, strict=True):
        if isinstance(one, slice):
            span = range(*one.indices(n))
            low, high = (min(span), max(span) + 1) if len(span) else (0, 0)
            cover.append(slice(low, high))
            rest.append(slice(None, None, span.step) if len(span) else slice(0, 0))
        else:
            at = int(one) % n
            cover.append(slice(at, at + 1))
            rest.append(0)
    return stored[tuple(cover)][tuple(rest)]


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
