"""Numbers per head that an experiment gathers prompt by prompt, and the labelled maps that they become."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.errors import MetricError


class Gathered:
    """Named numbers per head, by prompt and layer, of the one tower that reads the prompt.

    Layers may have different numbers of heads; what is missing is NaN.
    """

    def __init__(self) -> None:
        self.tower = "decoder"
        self.prompts: list[str] = []
        self._values: dict[str, dict[tuple[int, int], np.ndarray]] = {}

    def start(self, prompt: str) -> None:
        """What is added from now on is of this prompt."""
        self.prompts.append(prompt)

    def add(self, name: str, layer: int, values: Float[Tensor, "head"]) -> None:
        """Keep a layer's numbers of the prompt that was started last."""
        kept = self._values.setdefault(name, {})
        kept[len(self.prompts) - 1, layer] = values.detach().double().cpu().numpy()

    def of(self, name: str) -> xr.DataArray:
        """The numbers under a name, axes (prompt, layer, head); raises `MetricError` where nothing was gathered."""
        found = self._values.get(name)
        if not found:
            raise MetricError(
                f"{name} was asked for; no attention was seen: the model ran none of its layers"
            )
        layers = sorted({layer for _, layer in found})
        n_heads = {layer: max(len(v) for (_, at), v in found.items() if at == layer) for layer in layers}
        grid = np.full((len(self.prompts), len(layers), max(n_heads.values())), np.nan)
        for (prompt, layer), values in found.items():
            grid[prompt, layers.index(layer), : len(values)] = values
        return xr.DataArray(
            grid,
            dims=("prompt", "layer", "head"),
            coords={"prompt": np.arange(len(self.prompts), dtype=np.int64), **head_coords(n_heads)},
        )

    def mean(self, name: str) -> xr.DataArray:
        """The mean over prompts, axes (layer, head); NaN where no prompt has a number."""
        return mean_over(self.of(name), "prompt")


def head_coords(n_heads: Mapping[int, int]) -> dict[str, object]:
    """The coordinates of a head map from the number of heads by layer."""
    return {
        "layer": np.array(list(n_heads), dtype=np.int64),
        "head": np.arange(max(n_heads.values()), dtype=np.int64),
        "n_heads": ("layer", np.array(list(n_heads.values()), dtype=np.int64)),
    }


def mean_over(values: xr.DataArray, axis: str) -> xr.DataArray:
    """The mean over an axis, NaN left out; NaN where nothing else is there."""
    known = values.notnull().sum(axis)
    return values.sum(axis, skipna=True).where(known > 0) / known.where(known > 0)
