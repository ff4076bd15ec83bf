"""Numbers per layer and head, as an experiment collects them, as one labelled array."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr


def head_grid(values: Mapping[int, np.ndarray]) -> xr.DataArray:
    """Axes (layer, head) from ``{layer: [head]}``; NaN where a layer has fewer heads (coordinate ``n_heads``)."""
    layers = sorted(values)
    n_heads = [len(values[layer]) for layer in layers]
    grid = np.full((len(layers), max(n_heads, default=0)), np.nan)
    for row, layer in enumerate(layers):
        grid[row, : n_heads[row]] = values[layer]
    coords: dict[str, object] = {
        "layer": np.array(layers, dtype=np.int64),
        "head": np.arange(grid.shape[-1], dtype=np.int64),
        "n_heads": ("layer", np.array(n_heads, dtype=np.int64)),
    }
    return xr.DataArray(grid, dims=("layer", "head"), coords=coords)


def by_prompt(grids: Sequence[xr.DataArray], names: Sequence[str]) -> xr.DataArray:
    """Head maps of prompts, one behind another, with a leading axis ``prompt``."""
    stacked = np.stack([grid.values for grid in grids])
    return xr.DataArray(
        stacked, dims=("prompt", *map(str, grids[0].dims)), coords={"prompt": list(names), **grids[0].coords}
    )
