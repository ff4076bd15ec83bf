"""Pieces of arrays as forwards bring them, and how they become one labelled array.

A forward brings rows (its queries) and keys. Rows of later steps are appended. A row keeps its place in the
whole key axis: keys that did not exist yet, or that a sliding cache had dropped, are hidden from it, so they
hold what hidden keys hold (pattern 0, scores -inf). The result is the array that one forward over the whole
text gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Int

from probe.analysis.captured.kinds import KINDS


class Slot(NamedTuple):
    """Which array: its kind, and the prompt, tower and layer that it belongs to."""

    name: str
    prompt: int
    tower: str
    layer: int


@dataclass(frozen=True)
class Extent:
    """Which heads, queries (or tokens) and keys an array holds; an axis that it does not have is empty."""

    heads: tuple[int, ...] = ()
    rows: Int[np.ndarray, "rows"] = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: Int[np.ndarray, "keys"] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Piece:
    """Part of an array: what one forward brought."""

    values: np.ndarray
    extent: Extent


@dataclass(frozen=True)
class Labels:
    """Token strings along an array's rows and keys (None where the axis has no tokens), and notes about it."""

    row_tokens: tuple[str, ...] | None = None
    key_tokens: tuple[str, ...] | None = None
    attrs: dict[str, Any] = field(default_factory=dict)


def joined(name: str, extents: Sequence[Extent]) -> Extent:
    """The extent of the whole: rows appended, keys united and sorted (appended for keys and values)."""
    if len(extents) == 1:
        return extents[0]
    rows = np.concatenate([one.rows for one in extents])
    keys = np.concatenate([one.keys for one in extents])
    if KINDS[name].fill is not None:
        keys = np.unique(keys)
    return Extent(extents[0].heads, rows, keys)


def join(name: str, pieces: Sequence[Piece], keys: np.ndarray | None = None) -> np.ndarray:
    """The values of the whole array; `keys`, where given, is the key axis that patterns and scores shall have."""
    if len(pieces) == 1 and (keys is None or np.array_equal(keys, pieces[0].extent.keys)):
        return pieces[0].values
    kind = KINDS[name]
    if kind.fill is None:
        return np.concatenate([piece.values for piece in pieces], axis=long_axis(name))
    whole = joined(name, [piece.extent for piece in pieces])
    whole = whole if keys is None else replace(whole, keys=keys)
    shape = whole_shape(name, [piece.values.shape for piece in pieces], whole)
    values = np.full(shape, kind.fill, dtype=pieces[0].values.dtype)
    start = 0
    for piece in pieces:
        stop = start + len(piece.extent.rows)
        values[:, start:stop, np.searchsorted(whole.keys, piece.extent.keys)] = piece.values
        start = stop
    return values


def whole_shape(name: str, shapes: Sequence[Sequence[int]], whole: Extent) -> tuple[int, ...]:
    """The shape that `join` gives for pieces of these shapes."""
    if KINDS[name].fill is not None:
        return len(whole.heads), len(whole.rows), len(whole.keys)
    shape, axis = list(shapes[0]), long_axis(name)
    shape[axis] = sum(one[axis] for one in shapes)
    return tuple(shape)


def long_axis(name: str) -> int:
    """The axis along which pieces follow one another: rows, or the keys of k and v."""
    kind = KINDS[name]
    return kind.axes.index(kind.row_axis or "key_pos")


def coordinates(slot: Slot, extent: Extent, labels: Labels) -> dict[str, Any]:
    """Coordinates of a slot's array: heads, absolute token indices, and the tokens themselves."""
    kind = KINDS[slot.name]
    found: dict[str, Any] = {"prompt": slot.prompt, "tower": slot.tower, "layer": slot.layer}
    if kind.head_axis is not None:
        found[kind.head_axis] = (kind.head_axis, np.asarray(extent.heads, dtype=np.int64))
    row_axis = kind.row_axis
    if row_axis is not None:
        found[row_axis] = (row_axis, extent.rows)
        name = "str_token" if row_axis == "token" else "query_token"
        found |= _tokens(name, row_axis, extent.rows, labels.row_tokens)
    if "key_pos" in kind.axes:
        found["key_pos"] = ("key_pos", extent.keys)
        found |= _tokens("key_token", "key_pos", extent.keys, labels.key_tokens)
    return found


def _tokens(name: str, axis: str, index: np.ndarray, tokens: tuple[str, ...] | None) -> dict[str, Any]:
    if tokens is None or int(index.max(initial=-1)) >= len(tokens):
        return {}
    return {name: (axis, np.array([tokens[i] for i in index.tolist()], dtype=object))}


def labelled(slot: Slot, values: Any, extent: Extent, labels: Labels) -> xr.DataArray:
    """The array of one slot with its axes named and labelled; `values` may be a lazy array."""
    kind = KINDS[slot.name]
    attrs = {"long_name": kind.summary, **labels.attrs}
    data = xr.Variable(kind.axes, values, attrs)
    return xr.DataArray(data, coords=coordinates(slot, extent, labels), name=slot.name)
