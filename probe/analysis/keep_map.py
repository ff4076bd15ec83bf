"""Pooled maps of every head, summed inside the sweep: ``keep="map"``."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from safetensors.torch import save
from torch import Tensor

from probe.analysis.files import replace_file
from probe.metrics.base import CellKey
from probe.report.kept import MAP_FOLDER
from probe.seam.call import AttentionCall

CELLS = 256  # cells of a map along either axis, at most


@dataclass
class Pooled:
    """Sums of the pattern over blocks of tokens; a block doubles in length when the map would grow past `CELLS`."""

    sums: Float[Tensor, "head query_block key_block"]
    query_block: int = 1
    key_block: int = 1
    n_query: int = 0
    n_key: int = 0

    def reserve(self, n_query: int, n_key: int) -> None:
        """Make room for so many queries and keys."""
        self.n_query, self.n_key = max(self.n_query, n_query), max(self.n_key, n_key)
        while self.n_query > CELLS * self.query_block:
            self.sums = _paired(self.sums, 1)
            self.query_block *= 2
        while self.n_key > CELLS * self.key_block:
            self.sums = _paired(self.sums, 2)
            self.key_block *= 2

    def add(self, block: Tensor, query: Tensor, key: Tensor) -> None:
        """Add ``block [head, row, key]`` whose rows and columns are these real tokens (-1 = padding, left out)."""
        if bool((query < 0).any()):
            block, query = block[:, query >= 0], query[query >= 0]
        if bool((key < 0).any()):
            block, key = block[:, :, key >= 0], key[key >= 0]
        if not query.numel() or not key.numel():
            return
        self.sums.index_add_(1, query // self.query_block, self._by_key(block.float(), key))

    def _by_key(self, block: Tensor, key: Tensor) -> Float[Tensor, "head row key_block"]:
        """Sums over the blocks of keys; consecutive keys are summed as a view, ten times faster than one by one."""
        wide = block.new_zeros(block.shape[0], block.shape[1], CELLS)
        width, first, last = self.key_block, int(key[0]), int(key[-1])
        start = min(-(-first // width) * width, last + 1)  # the first block that begins in here
        whole = (last + 1 - start) // width if last + 1 - first == key.numel() else 0
        stop = start + whole * width
        if whole:
            inner = block[:, :, start - first : stop - first].reshape(*block.shape[:2], whole, width)
            wide[:, :, start // width : start // width + whole] = inner.sum(-1)
        for edge in (slice(0, start - first), slice(stop - first, key.numel())):
            wide.index_add_(2, key[edge] // width, block[:, :, edge])
        return wide

    def means(self) -> Float[Tensor, "head query_block key_block"]:
        """Mean pattern per block over its (query, key) pairs, float16; hidden pairs count as 0."""
        rows = _lengths(self.n_query, self.query_block, self.sums.device)
        columns = _lengths(self.n_key, self.key_block, self.sums.device)
        used = self.sums[:, : len(rows), : len(columns)]
        return (used / (rows[:, None] * columns[None])).to(torch.float16)


def _paired(sums: Tensor, axis: int) -> Tensor:
    halved = sums.reshape(*sums.shape[:axis], CELLS // 2, 2, *sums.shape[axis + 1 :]).sum(axis + 1)
    return torch.cat([halved, torch.zeros_like(halved)], dim=axis)


def _lengths(total: int, block: int, device: torch.device) -> Tensor:
    starts = torch.arange(0, total, block, device=device)
    return (torch.clamp(starts + block, max=total) - starts).to(torch.float32)


class MapKeeper:
    """An observer that pools every head's pattern while it is computed; nothing n×n is ever held."""

    def __init__(self) -> None:
        self.maps: dict[CellKey, Pooled] = {}

    def want(self, call: AttentionCall) -> Want:
        """The blocks of the pattern, on their way through the sweep."""
        query_index, key_index = call.query_index, call.key_index
        pools = [self._pool(call, row, query_index, key_index) for row in range(call.size[0])]

        def pool(block: Tensor, rows: slice, keys: slice) -> Tensor:
            for row, pooled in enumerate(pools):
                pooled.add(block[row].detach(), query_index[row, rows], key_index[row, keys])
            return block.new_zeros((*block.shape[:3], 0))

        return Want(rows={"kept_map": pool})

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Everything was taken inside the sweep."""

    def _pool(self, call: AttentionCall, row: int, query_index: Tensor, key_index: Tensor) -> Pooled:
        place = call.place
        key = CellKey(call.batch.prompts[row], place.tower, place.layer)
        pooled = self.maps.get(key)
        if pooled is None:
            pooled = Pooled(torch.zeros(call.n_heads, CELLS, CELLS, device=query_index.device))
            self.maps[key] = pooled
        pooled.reserve(int(query_index[row].max()) + 1, int(key_index[row].max()) + 1)
        return pooled

    def save(self, folder: Path, numbers: dict[CellKey, CellKey]) -> None:
        """Write the maps, one file per prompt, under the keys that `numbers` gives them, and forget them."""
        for prompt in {key.prompt for key in numbers.values()}:
            mine = {key: pooled for key, pooled in self.maps.items() if numbers[key].prompt == prompt}
            path = folder / MAP_FOLDER / f"prompt-{prompt:05d}.safetensors"
            replace_file(path, _encoded(mine.items()))
        self.maps.clear()


def _encoded(maps: Iterable[tuple[CellKey, Pooled]]) -> bytes:
    tensors, sizes = {}, {}
    for key, pooled in maps:
        name = f"{key.tower}.L{key.layer:03d}"
        tensors[name] = pooled.means().cpu().contiguous()
        sizes[name] = json.dumps({"query_block": pooled.query_block, "key_block": pooled.key_block})
    content: bytes = save(tensors, metadata=sizes)
    return content
