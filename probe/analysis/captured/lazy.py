"""Arrays that are read when they are indexed: one layer's pieces in shards, and layers stacked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing


class Lazy(BackendArray):
    """An array of known shape whose parts are read on demand by `read(key)`; `key` holds ints and slices."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._read = read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what an index asks for."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)


class Stack(Lazy):
    """Layers of equal shape along a new first axis; reading one layer touches only that layer."""

    def __init__(self, layers: list[xr.Variable]) -> None:
        self._layers = layers
        super().__init__((len(layers), *layers[0].shape), layers[0].dtype, self._layer)

    def _layer(self, key: tuple[Any, ...]) -> Any:
        first, rest = key[0], key[1:]
        if not isinstance(first, slice):
            return self._layers[int(first)][rest].values
        chosen = [self._layers[i][rest].values for i in range(*first.indices(len(self._layers)))]
        if chosen:
            return np.stack(chosen)
        return np.zeros((0, *self._layers[0][rest].shape), dtype=self.dtype)
