"""A labelled array as a tensor of a safetensors file and a plain description, and back, unchanged."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import ReportError

Tensors = dict[str, np.ndarray]
_STORED = "fiub"  # numpy kinds that a safetensors file holds; text goes into the description


def pack(array: xr.DataArray, key: str, tensors: Tensors) -> dict[str, Any]:
    """Describe `array` in plain values and put its numbers into `tensors` under `key`."""
    entry: dict[str, Any] = {
        "dims": [str(dim) for dim in array.dims],
        "name": None if array.name is None else str(array.name),
        "coords": {str(name): _pack_coord(coord, key) for name, coord in array.coords.items()},
        "attrs": {str(name): _plain(value, key) for name, value in array.attrs.items()},
    }
    values = np.asarray(array.values)
    if values.dtype.kind not in _STORED:
        return entry | {"values": _pack_values(values, key)}
    tensors[key] = np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
    return entry | {"array": key, "shape": list(values.shape), "dtype": values.dtype.name}


def unpack(entry: Any, tensors: Mapping[str, np.ndarray]) -> xr.DataArray:
    """Rebuild the array that `pack` described; anything missing or of another shape is a `ReportError`."""
    try:
        values = _unpack_values(entry["values"]) if "values" in entry else _tensor(entry, tensors)
        coords = {name: (tuple(c["dims"]), _unpack_values(c)) for name, c in entry["coords"].items()}
        return xr.DataArray(
            values, coords, tuple(entry["dims"]), name=entry["name"], attrs=dict(entry["attrs"])
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{type(error).__name__}: {error}"
        raise ReportError(
            f"an array of the report was asked; its description is damaged ({message})"
        ) from error


def _tensor(entry: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    key = entry["array"]
    if key not in tensors:
        raise ReportError(
            f"the array {key!r} was asked; arrays.safetensors does not hold it: restore the file"
        )
    values = tensors[key]
    if list(values.shape) != entry["shape"] or values.dtype.name != entry["dtype"]:
        found = f"{values.dtype.name}{list(values.shape)}"
        raise ReportError(
            f"the array {key!r} was asked as {entry['dtype']}{entry['shape']}, found {found}: "
            "the files do not belong together"
        )
    return values


def _pack_coord(coord: xr.DataArray, key: str) -> dict[str, Any]:
    return {"dims": [str(dim) for dim in coord.dims], **_pack_values(np.asarray(coord.values), key)}


def _pack_values(values: np.ndarray, key: str) -> dict[str, Any]:
    shape = list(values.shape)
    flat = values.ravel()
    if values.dtype.kind in "iu" and values.ndim == 1 and values.size > 1:
        start = int(flat[0])
        if np.array_equal(flat, np.arange(start, start + flat.size)):
            return {"dtype": values.dtype.name, "shape": shape, "start": start}
    if values.dtype.kind in "iub":
        return {"dtype": values.dtype.name, "shape": shape, "flat": flat.tolist()}
    if values.dtype.kind == "f":
        numbers = [float(item) for item in flat]
        return {
            "dtype": values.dtype.name,
            "shape": shape,
            "flat": [number if np.isfinite(number) else str(number) for number in numbers],
        }
    if all(isinstance(item, str) for item in flat):
        return {"dtype": "str", "shape": shape, "flat": [str(item) for item in flat]}
    raise ReportError(
        f"{key!r} was to be saved; {values.dtype} values cannot be: use numbers, booleans or text"
    )


def _unpack_values(entry: Mapping[str, Any]) -> np.ndarray:
    shape = tuple(int(size) for size in entry["shape"])
    if entry["dtype"] == "str":
        # NumPy's own strings drop a NUL at their end, which byte-level tokens may hold.
        trimmed = any(str(text).endswith("\0") for text in entry["flat"])
        return np.array(entry["flat"], dtype=object if trimmed else np.str_).reshape(shape)
    dtype = np.dtype(entry["dtype"])
    if dtype.kind not in _STORED:
        raise ReportError(
            f"an array of the report was asked; its type {entry['dtype']!r} is not one that probe writes"
        )
    if "start" in entry:
        return np.arange(entry["start"], entry["start"] + shape[0]).astype(dtype)
    numbers = [float(item) for item in entry["flat"]] if dtype.kind == "f" else entry["flat"]
    return np.array(numbers, dtype=dtype).reshape(shape)


def _plain(value: object, key: str) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item, key) for name, item in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise ReportError(f"{key!r} was to be saved; its attribute {value!r} is not plain: use text and numbers")
