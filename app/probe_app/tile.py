"""The part of a head's pattern that is looked at: from kept queries and keys, or from pooled maps."""

import numpy as np
import xarray as xr

from probe.errors import ReportError
from probe.report.kept import KeptLayer, KeptRun
from probe.terms import HeadId
from probe_app.address import span

# Of a tile along each axis. With 256 an answer is 1.8 times as large, and a zoom takes a tenth longer.
CELLS = 192
MOST_PAIRS = (
    2**24
)  # pairs of tokens that are computed while somebody waits; more is shown from the pooled map


class KeptView:
    """What was kept of one head for one prompt."""

    def __init__(self, kept: KeptRun, head: HeadId, prompt: int) -> None:
        self.kept, self.head, self.prompt = kept, head, prompt
        self._layer: KeptLayer | None = None

    def layer(self) -> KeptLayer:
        """Queries and keys of its layer; raises `ReportError` where they were not kept."""
        if self._layer is None:
            self._layer = self.kept.layer(self.head.layer, tower=self.head.tower, prompt=self.prompt)
        return self._layer

    def tile(
        self, queries: str | None, keys: str | None
    ) -> tuple[xr.DataArray, str, tuple[int, int], tuple[int, int]]:
        """The pattern on ranges ``start-stop``, at most 192 × 192 cells; what a cell is; and the ranges as shown.

        Raises:
            ReportError: nothing of this head was kept.
        """
        if not self.kept.has_qk:
            return self._pooled(queries, keys)
        layer = self.layer()
        n_queries, n_keys = len(layer.query_tokens), len(layer.key_tokens)
        q, k = span(queries, n_queries), span(keys, n_keys)
        if (q[1] - q[0]) * (k[1] - k[0]) > MOST_PAIRS and self.kept.has_map:
            return self._pooled(queries, keys)
        values = layer.tile(self.head.head, slice(*q), slice(*k), (CELLS, CELLS))
        step, width = _size(q[1] - q[0]), _size(k[1] - k[0])
        coords = {
            "query_pos": layer.query_tokens[q[0] : q[1]][::step],
            "key_pos": layer.key_tokens[k[0] : k[1]][::width],
        }
        data = xr.DataArray(values, dims=("query_pos", "key_pos"), coords=coords)
        return data, "tokens" if step == width == 1 else f"{step} × {width} tokens", q, k

    def _pooled(
        self, queries: str | None, keys: str | None
    ) -> tuple[xr.DataArray, str, tuple[int, int], tuple[int, int]]:
        maps = self.kept.map(self.head.layer, tower=self.head.tower, prompt=self.prompt)
        if self.head.head >= maps.sizes["head"]:
            raise ReportError(f"{self.head} was asked; that layer was kept with {maps.sizes['head']} heads")
        one = maps.isel(head=self.head.head)
        step, width = int(maps.attrs["query_block"]), int(maps.attrs["key_block"])
        q, k = (span(asked, one.sizes[axis] * size, size) for asked, axis, size in
                ((queries, "query_pos", step), (keys, "key_pos", width)))  # fmt: skip
        part = one.isel(
            query_pos=slice(q[0] // step, -(-q[1] // step)), key_pos=slice(k[0] // width, -(-k[1] // width))
        )
        return part.drop_vars("head"), "tokens" if step == width == 1 else f"{step} × {width} tokens", q, k

    def rows(self, first: int, stop: int) -> np.ndarray | None:
        """The pattern among the tokens ``[first, stop)``, ``[query, key]``; None where it was not kept."""
        if not self.kept.has_qk:
            return None
        return self.pattern(first, stop, stop, first)

    def pattern(self, first: int, stop: int, keys_stop: int, keys_first: int = 0) -> np.ndarray:
        """The rows of the tokens ``[first, stop)`` over the keys ``[keys_first, keys_stop)``; 0 where none was kept.

        Raises:
            ReportError: queries and keys of this layer were not kept.
        """
        layer = self.layer()
        out = np.zeros((stop - first, keys_stop - keys_first), dtype=np.float32)
        at = np.flatnonzero((layer.query_tokens >= first) & (layer.query_tokens < stop))
        among = np.flatnonzero((layer.key_tokens >= keys_first) & (layer.key_tokens < keys_stop))
        if len(at) and len(among):
            values = layer.rows(self.head.head, at, slice(int(among[0]), int(among[-1]) + 1))
            out[np.ix_(layer.query_tokens[at] - first, layer.key_tokens[among] - keys_first)] = values
        return out

    def entropies(self, first: int, stop: int) -> np.ndarray | None:
        """Entropy in nats of the rows of the tokens ``[first, stop)``, over all keys; None where none was kept."""
        if not self.kept.has_qk:
            return None
        layer = self.layer()
        at = np.flatnonzero((layer.query_tokens >= first) & (layer.query_tokens < stop))
        out = np.full(stop - first, np.nan)
        # Queries and keys are kept in float16, so that a probability may come out a little above 1.
        p = np.minimum(layer.rows(self.head.head, at).astype(np.float64), 1.0)
        out[layer.query_tokens[at] - first] = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
        return out


def _size(length: int) -> int:
    return max(1, -(-length // CELLS))
