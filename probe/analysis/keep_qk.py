"""Queries, keys and log-normalisers of every layer, from which any row or tile can be computed: ``keep="qk"``."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from probe_kernels.mask import Tile
from probe_kernels.types import Attended, Layout, Want
from safetensors.numpy import save
from torch import Tensor

from probe.analysis.files import replace_file
from probe.errors import CaptureError
from probe.metrics.base import CellKey
from probe.report.kept import QK_FOLDER, KeptLayer, KeptPart, Rules
from probe.seam.call import AttentionCall

_FLOAT16_MAX = 6e4
Sink = Callable[[CellKey, int, KeptPart], KeptPart | None]


class QkKeeper:
    """An observer that keeps, per prompt and layer, what the pattern can be computed from.

    Parts go through `sink` as they come; what it returns stays in memory (None: nothing does).
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self.parts: dict[CellKey, list[KeptPart]] = {}
        self.sink = sink
        self._last_key: dict[CellKey, int] = {}
        self._count: dict[CellKey, int] = {}

    def want(self, call: AttentionCall) -> Want:
        """The normaliser of every row."""
        return Want(lse=True)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep this call's queries and its new keys, padding left out."""
        if call.scores is None or attended.lse is None:
            raise CaptureError(
                f"queries and keys of {call.place.module} were asked; this model only gives its weights: "
                "analyze without keep='qk'"
            )
        for row, prompt in enumerate(call.batch.prompts):
            key = CellKey(prompt, call.place.tower, call.place.layer)
            part = self._part(call, attended.lse, row, self._last_key.get(key, -1))
            tokens = part.arrays["key_token"]
            if len(tokens):
                self._last_key[key] = int(tokens.max())
            number = self._count[key] = self._count.get(key, -1) + 1
            kept = self.sink(key, number, part) if self.sink is not None else part
            if kept is not None:
                self.parts.setdefault(key, []).append(kept)

    def layer(self, key: CellKey) -> KeptLayer | None:
        """What is in memory of one prompt's layer."""
        parts = self.parts.get(key)
        return None if parts is None else KeptLayer(key.tower, key.layer, parts)

    def forget(self) -> set[CellKey]:
        """Forget the prompts seen so far, which will not go on; returns their keys."""
        keys = set(self._count)
        self.parts.clear()
        self._last_key.clear()
        self._count.clear()
        return keys

    def _part(self, call: AttentionCall, lse: Tensor, row: int, last: int) -> KeptPart:
        scores = call.scores
        if scores is None:
            raise CaptureError(f"queries and keys of {call.place.module} were asked; it has none")
        query_token, key_token = call.query_index[row], call.key_index[row]
        rows, seen = query_token >= 0, key_token >= 0
        new = key_token > last
        arrays = {
            "query": _half(scores.query[row][:, rows]),
            "key": _half(scores.key[row][:, new]),
            "lse": _plain(lse[row][:, rows].float()),
            "query_token": _plain(query_token[rows]),
            "key_token": _plain(key_token[new]),
        }
        layout = call.layout
        for name, values, chosen in (
            ("query_pos", layout.query_pos, rows),
            ("key_pos", layout.key_pos, new),
            ("query_segment", layout.query_segment, rows),
            ("key_segment", layout.key_segment, new),
        ):
            if values is not None:
                arrays[name] = _plain(values.expand(call.size[0], -1)[row][chosen].to(torch.int64))
        if scores.alibi is not None:
            arrays["alibi"] = _plain(scores.alibi.float())
        rules = _rules(layout)
        arrays |= _cells(call, row, rows, seen, with_mask=not rules.known)
        return KeptPart(arrays, scores.scale, scores.softcap, rules if rules.known else Rules())


def part_bytes(part: KeptPart) -> bytes:
    """A part as the bytes of its file."""
    call = {"scale": part.scale, "softcap": part.softcap}
    rules = {"all_of": list(part.rules.all_of), "any_of": list(part.rules.any_of)}
    arrays = {name: np.ascontiguousarray(value) for name, value in part.arrays.items()}
    content: bytes = save(arrays, metadata={"call": json.dumps(call | rules)})
    return content


def part_path(folder: Path, key: CellKey, number: int) -> Path:
    """Where a part of a prompt's layer lies in a report's folder."""
    name = f"{key.tower}.L{key.layer:03d}.part-{number:03d}.safetensors"
    return folder / QK_FOLDER / f"prompt-{key.prompt:05d}" / name


def to_folder(folder: Path, number_of: Callable[[CellKey], CellKey]) -> Sink:
    """A sink that writes every part to its file and keeps nothing in memory."""

    def write(key: CellKey, number: int, part: KeptPart) -> None:
        replace_file(part_path(folder, number_of(key), number), part_bytes(part))

    return write


def _rules(layout: Layout) -> Rules:
    mask = layout.mask
    return Rules(tuple(p.name for p in mask.all_of), tuple(p.name for p in mask.any_of))


def _cells(
    call: AttentionCall, row: int, rows: Tensor, seen: Tensor, *, with_mask: bool
) -> Mapping[str, np.ndarray]:
    """Mask and bias cell by cell, where they cannot be said in words: n² bits, and n² float32 for a bias."""
    scores = call.scores
    bias = scores.bias if scores is not None else None
    if bias is None and not with_mask:
        return {}
    batch, n_query, n_key = call.size
    arrays = {"seen_token": _plain(call.key_index[row][seen])}
    if bias is not None:
        whole = bias.expand(batch if bias.shape[0] > 1 else 1, -1, n_query, n_key)
        mine = whole[row if bias.shape[0] > 1 else 0]
        arrays["bias"] = _plain(mine[:, rows][:, :, seen].float())
    if with_mask:
        hidden = [~_visible(call, row, start)[:, seen] for start in range(0, n_query, 256)]
        packed = np.packbits(_plain(torch.cat(hidden)[rows]), axis=1)
        arrays["hidden"] = packed
    return arrays


def _visible(call: AttentionCall, row: int, start: int) -> Tensor:
    layout, (batch, n_query, n_key) = call.layout, call.size
    rows, keys = slice(start, min(start + 256, n_query)), slice(0, n_key)
    tile = Tile(
        query_pos=layout.query_pos[:, rows, None],
        key_pos=layout.key_pos[:, None, keys],
        query_segment=None if layout.query_segment is None else layout.query_segment[:, rows, None],
        key_segment=None if layout.key_segment is None else layout.key_segment[:, None, keys],
        rows=rows,
        keys=keys,
    )
    seen = layout.mask.visible(tile)
    shape = (batch, rows.stop - rows.start, n_key)
    if seen is None:
        return torch.ones(shape[1:], dtype=torch.bool)
    return seen.expand(shape)[row]


def _half(values: Tensor) -> np.ndarray:
    """float16, or float32 where float16 would overflow."""
    values = values.detach().float()
    fits = not values.numel() or float(values.abs().max()) < _FLOAT16_MAX
    return _plain(values.to(torch.float16) if fits else values)


def _plain(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().contiguous().numpy()
    return array
