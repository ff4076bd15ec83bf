"""Heads of a head map by name and in order: which are the top ones."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from probe.report.answer import Answer
from probe.terms import TOWER_PREFIX, HeadId

Axis = Literal["head", "kv_head", "expert", "layer", "model"]
MODEL_LAYER = -1  # stands for the layer of a number that the whole model has
_MARKS: dict[str, str] = {"head": "H", "kv_head": "KV", "expert": "E"}


def head_axis(head_map: xr.DataArray) -> Axis:
    """The name of a head map's second axis; ``layer`` where a layer has one value, ``model`` where there is but one."""
    if head_map.ndim == 0:
        return "model"
    found: list[Axis] = [axis for axis in ("kv_head", "expert", "head") if axis in head_map.dims]
    return found[0] if found else "layer"


def grid(head_map: xr.DataArray) -> np.ndarray:
    """The values as float64 ``[layer, head]``; one column where a layer has one value, one cell for a whole model."""
    axis = head_axis(head_map)
    if axis == "model":
        return np.asarray(head_map.values, dtype=np.float64).reshape(1, 1)
    if axis == "layer":
        return np.asarray(head_map.values, dtype=np.float64)[:, None]
    return np.asarray(head_map.transpose("layer", axis).values, dtype=np.float64)


def head_counts(head_map: xr.DataArray) -> list[int]:
    """How many heads each layer really has; the rest of a row is filling."""
    axis = head_axis(head_map)
    if axis == "model":
        return [1]
    width = 1 if axis == "layer" else head_map.sizes[axis]
    if "n_heads" not in head_map.coords:
        return [width] * head_map.sizes["layer"]
    return [min(int(count), width) for count in np.atleast_1d(head_map.coords["n_heads"].values)]


def axis_labels(head_map: xr.DataArray, axis: str) -> list[int]:
    """The numbers of the layers or heads along `axis`: the coordinate where there is one, else 0, 1, ...

    >>> axis_labels(xr.DataArray(np.zeros((2, 3)), dims=("layer", "head"), coords={"layer": [3, 7]}), "layer")
    [3, 7]
    """
    if axis in head_map.coords:
        return [int(label) for label in np.atleast_1d(head_map.coords[axis].values)]
    return list(range(head_map.sizes[axis]))


def head_name(tower: str, layer: int, head: int, axis: str = "head") -> str:
    """A head as it is written everywhere: ``L18.H6``; a key/value head is ``L18.KV1``, an expert ``L18.E5``.

    What the whole model has is of ``model``.

    >>> head_name("encoder", 3, 1), head_name("decoder", 3, 1, "kv_head"), head_name("decoder", 3, 0, "layer")
    ('enc.L3.H1', 'L3.KV1', 'L3')
    """
    if axis == "head":
        return str(HeadId(tower, layer, head))
    if axis == "model":
        return f"{TOWER_PREFIX.get(tower, tower + '.')}model"
    name = f"{TOWER_PREFIX.get(tower, tower + '.')}L{layer}"
    return name if axis == "layer" else f"{name}.{_MARKS[axis]}{head}"


def cells(head_map: xr.DataArray) -> Iterator[tuple[int, int, float]]:
    """Every real head as (layer, head, value), layer by layer; a number of the whole model is of layer -1."""
    axis = head_axis(head_map)
    heads = [0] if axis in ("layer", "model") else axis_labels(head_map, axis)
    layers = [MODEL_LAYER] if axis == "model" else axis_labels(head_map, "layer")
    for row, layer, count in zip(grid(head_map), layers, head_counts(head_map), strict=True):
        for head, value in zip(heads[:count], row[:count].tolist(), strict=True):
            yield layer, head, value


def ranked(answer: Answer) -> pd.DataFrame:
    """All heads with columns layer, head, score: the better end first, ties by layer, undefined last."""
    frame = pd.DataFrame(list(cells(answer.head_map)), columns=["layer", "head", "score"])
    frame = frame.astype({"layer": "int64", "head": "int64", "score": "float64"})
    ascending = answer.better == "low"
    return frame.sort_values(
        ["score", "layer", "head"], ascending=[ascending, True, True], na_position="last", ignore_index=True
    )


def top_heads(answer: Answer, n: int) -> list[tuple[str, float]]:
    """The `n` best heads with a finite score, by name."""
    everything = ranked(answer)
    best = everything[np.isfinite(everything["score"])].head(n)
    axis = head_axis(answer.head_map)
    return [
        (head_name(answer.tower, int(layer), int(head), axis), float(score))
        for layer, head, score in best.itertuples(index=False)
    ]
