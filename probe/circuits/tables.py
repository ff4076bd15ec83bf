"""Numbers per pair, layer, unit and place as the labelled arrays of an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.circuits.nodes import PER_HEAD, PER_KV_HEAD, Node


@dataclass(frozen=True)
class Effects:
    """Scores ``{layer: [unit, place, pair]}``; `places`: labels of the axis ``position``, where places are told apart.

    A text-free report keeps those that are called ``mark`` too: others may be tokens.
    """

    node: Node
    scores: Mapping[int, Tensor]
    places: Mapping[str, Sequence[str]] | None = None

    @property
    def map(self) -> xr.DataArray:
        """The mean over pairs, summed over places: axes (layer, head), (layer, kv_head) or (layer,)."""
        return self._grid({layer: one.mean(-1).sum(-1) for layer, one in self.scores.items()})

    @property
    def by_prompt(self) -> xr.DataArray:
        """The same per pair, axis ``prompt`` first."""
        return self._grid({layer: one.sum(-2).movedim(-1, 0) for layer, one in self.scores.items()}, "prompt")

    @property
    def extra(self) -> dict[str, xr.DataArray]:
        """``by_position``, with the places as the last axis, where they are told apart."""
        if self.places is None:
            return {}
        means = {layer: one.mean(-1).movedim(-1, 0) for layer, one in self.scores.items()}
        labels = {name: ("position", list(told)) for name, told in self.places.items()}
        return {"by_position": self._grid(means, "position").assign_coords(labels).transpose(..., "position")}

    def _grid(self, values: Mapping[int, Tensor], leading: str | None = None) -> xr.DataArray:
        """From ``{layer: […, unit]}``."""
        layers = sorted(values)
        counts = [int(values[layer].shape[-1]) for layer in layers]
        width = max(counts)
        rows = [
            torch.nn.functional.pad(values[layer].double(), (0, width - n), value=np.nan)
            for layer, n in zip(layers, counts, strict=True)
        ]
        grid = torch.stack(rows, dim=-2).numpy()
        first = [] if leading is None else [leading]
        coords: dict[str, object] = {"layer": layers}
        if leading is not None:
            coords[leading] = list(range(grid.shape[0]))
        axis = "head" if self.node in PER_HEAD else "kv_head" if self.node in PER_KV_HEAD else None
        if axis is None:
            return xr.DataArray(grid[..., 0], dims=(*first, "layer"), coords=coords)
        coords |= {axis: list(range(width)), "n_heads": ("layer", counts)}
        return xr.DataArray(grid, dims=(*first, "layer", axis), coords=coords)
