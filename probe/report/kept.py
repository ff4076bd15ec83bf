"""Queries and keys kept in a report's folder, and the exact pattern computed from them. Imports no torch.

Layout of the folder: ``kept/qk/prompt-00000/<tower>.L003.part-000.safetensors`` holds one layer's call of one prompt
(several parts where a prompt was taken in chunks or continued by decoding), with ``query [head, query_pos, d_head]``
and the keys that the parts before did not hold, ``key [kv_head, key_pos, d_head]``, both float16, and
``lse [head, query_pos]``, float32. ``kept/map/prompt-00000.safetensors`` holds one pooled map per layer.
Arrays are read through a memory map: a tile costs what it touches.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open

from probe.errors import ReportError
from probe.terms import HeadId

QK_FOLDER, MAP_FOLDER = Path("kept/qk"), Path("kept/map")
_ROWS = 256  # rows of the pattern that a thread holds at once
_THREADS = min(4, os.cpu_count() or 1)
_DTYPES = {"F16": "<f2", "F32": "<f4", "I64": "<i8", "U8": "|u1"}
_RULE = re.compile(r"(causal|within|near|same_chunk|same_segment|first)(?:\((-?\d+)\))?")


@dataclass(frozen=True)
class Rules:
    """The mask as words that need no tensor: every rule of `all_of`, and one of `any_of` if there are any.

    Known words: ``causal``, ``within(n)``, ``near(n)``, ``same_chunk(n)``, ``same_segment``, ``first(n)``.
    """

    all_of: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether every rule is one that `visible` can apply."""
        return all(_RULE.fullmatch(word) for word in (*self.all_of, *self.any_of))

    def visible(self, query: Mapping[str, np.ndarray], key: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """True where the query sees the key, ``[query, key]``; None where the mask hides nothing."""
        parts = [_apply(word, query, key) for word in self.all_of]
        if self.any_of:
            some = [_apply(word, query, key) for word in self.any_of]
            parts.append(np.asarray(np.stack(some).any(0)))
        if len(parts) == 1:
            return parts[0]
        return np.asarray(np.stack(parts).all(0)) if parts else None


def _apply(word: str, query: Mapping[str, np.ndarray], key: Mapping[str, np.ndarray]) -> np.ndarray:
    match = _RULE.fullmatch(word)
    if match is None:
        raise ReportError(
            f"a tile was asked; its mask has the rule {word!r}, which this version does not know"
        )
    name, number = match[1], int(match[2] or 0)
    q, k = query["pos"][:, None], key["pos"][None]
    if name == "causal":
        seen = k <= q
    elif name == "within":
        seen = q - k < number
    elif name == "near":
        seen = abs(q - k) <= number
    elif name == "same_chunk":
        seen = q // number == k // number
    elif name == "first":
        seen = (k < number) & (q == q)
    else:
        segment = key["segment"][None]
        seen = (query["segment"][:, None] == segment) & (segment >= 0)
    return np.asarray(seen)


@dataclass(frozen=True)
class KeptPart:
    """One call's queries of one prompt, and the keys that are new in it; padding is left out.

    `arrays` holds ``query``, ``key``, ``lse``, ``query_pos``, ``key_pos`` (storage positions, which the mask's rules
    speak of), ``query_token`` and ``key_token`` (numbers among the prompt's real tokens). It may hold
    ``alibi [head]``, ``query_segment``, ``key_segment``, and, over ``seen_token`` (all keys of the call),
    ``bias [1 or head, query, key]`` and ``hidden`` (packed bits, ``[query, key / 8]``).
    """

    arrays: Mapping[str, np.ndarray]
    scale: float
    softcap: float | None
    rules: Rules


class KeptLayer:
    """One layer of one prompt: the exact pattern, row by row or tile by tile, from what was kept.

    Probabilities are exp(s - lse) with s from float16 queries and keys, so they differ from the run's own by a factor
    of about 1 ± |s|·2⁻¹⁰; masses of learned sinks are in lse.
    """

    def __init__(self, tower: str, layer: int, parts: Sequence[KeptPart]) -> None:
        self.tower, self.layer = tower, layer
        self.parts = tuple(parts)

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return int(self.parts[0].arrays["query"].shape[0])

    @cached_property
    def query_tokens(self) -> np.ndarray:
        """The real token of every kept query row."""
        return self._joined("query_token", 0)

    @cached_property
    def key_tokens(self) -> np.ndarray:
        """The real token of every kept key."""
        return self._joined("key_token", 0)

    @cached_property
    def _key(self) -> np.ndarray:
        return self._joined("key", 1)

    @cached_property
    def _key_side(self) -> dict[str, np.ndarray]:
        names = {"pos": "key_pos", "segment": "key_segment"}
        return {name: self._joined(kept, 0) for name, kept in names.items() if kept in self.parts[0].arrays}

    def _joined(self, name: str, axis: int) -> np.ndarray:
        arrays = [part.arrays[name] for part in self.parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)

    def rows(
        self, head: int, queries: slice | Sequence[int] | np.ndarray, keys: slice = slice(None)
    ) -> np.ndarray:
        """The pattern of one head, float32 ``[query, key]``; `queries` and `keys` number the kept rows and keys.

        Raises:
            ReportError: a head or row that was not kept.
        """
        if not 0 <= head < self.n_heads:
            asked = HeadId(self.tower, self.layer, head)
            raise ReportError(f"{asked} was asked; that layer was kept with {self.n_heads} heads")
        n = len(self.query_tokens)
        wanted = np.arange(n)[queries] if isinstance(queries, slice) else np.asarray(queries, dtype=np.int64)
        if wanted.size and not (-n <= wanted.min() and wanted.max() < n):
            raise ReportError(f"query rows up to {wanted.max()} were asked; {n} rows were kept")
        key_numbers = np.arange(len(self.key_tokens))[keys]
        out = np.zeros((len(wanted), len(key_numbers)), dtype=np.float32)
        start = 0
        for part in self.parts:
            stop = start + len(part.arrays["query_token"])
            mine = (wanted % n >= start) & (wanted % n < stop) if n else np.zeros(0, dtype=bool)
            if mine.any():
                out[mine] = self._pattern(part, head, wanted[mine] % n - start, key_numbers)
            start = stop
        return out

    def tile(self, head: int, queries: slice, keys: slice, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
        """Means of the pattern over the cells of a grid laid on queries × keys, float32 ``[<=shape[0], <=shape[1]]``.

        Hidden pairs count as 0; a cell holds at least one pair. Cell sizes are ceil(length / shape).
        """
        wanted = np.arange(len(self.query_tokens))[queries]
        n_keys = len(np.arange(len(self.key_tokens))[keys])
        step = max(1, -(-len(wanted) // max(1, shape[0])))
        width = max(1, -(-n_keys // max(1, shape[1])))
        edges = np.arange(0, n_keys, width)
        out = np.zeros((-(-len(wanted) // step), len(edges)), dtype=np.float64)
        starts = range(0, len(wanted), _ROWS)

        def sums(start: int) -> tuple[np.ndarray, np.ndarray]:
            chosen = wanted[start : start + _ROWS]
            touched, line = np.unique((np.arange(len(chosen)) + start) // step, return_inverse=True)
            return touched, self._sums(head, chosen, line, keys, edges)

        # Numpy lets threads compute at once; a single block needs none.
        with ThreadPoolExecutor(_THREADS) as pool:
            for touched, part in pool.map(sums, starts) if len(starts) > 1 else map(sums, starts):
                out[touched, : part.shape[1]] += part
        columns = np.minimum(edges + width, n_keys) - edges
        rows = np.minimum(np.arange(len(out)) * step + step, len(wanted)) - np.arange(len(out)) * step
        return (out / columns / rows[:, None]).astype(np.float32)

    def _sums(
        self, head: int, rows: np.ndarray, line: np.ndarray, keys: slice, edges: np.ndarray
    ) -> np.ndarray:
        """Sums of the pattern over `rows` of one `line` and keys between `edges`; zeros at the end are left out."""
        seen = self._seen_of(rows, keys)
        if seen == 0:
            return np.zeros((int(line[-1]) + 1, 0))
        numbers = np.arange(len(self.key_tokens))[keys]
        part = self.rows(head, rows, slice(int(numbers[0]), int(numbers[seen - 1]) + 1, keys.step))
        # Rows first, by a product with ones: what is left for the other axis is small.
        lines = (np.arange(int(line[-1]) + 1)[:, None] == line).astype(np.float32) @ part
        return np.add.reduceat(lines, edges[edges < seen], axis=1, dtype=np.float64)

    def _seen_of(self, rows: np.ndarray, keys: slice) -> int:
        """How many keys, from the first on, hold all that the rows may see; what comes later is not computed."""
        position = self._key_side["pos"][keys]
        if not all("causal" in part.rules.all_of for part in self.parts) or not len(rows):
            return len(position)
        seen = np.flatnonzero(position <= self._joined("query_pos", 0)[rows].max())
        return int(seen[-1]) + 1 if len(seen) else 0

    def _pattern(self, part: KeptPart, head: int, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        arrays = part.arrays
        group = self.n_heads // int(self._key.shape[0])
        query = np.asarray(arrays["query"][head, rows], dtype=np.float32)
        scores = (query * part.scale) @ np.asarray(self._key[head // group][keys], dtype=np.float32).T
        if part.softcap is not None:
            scores = part.softcap * np.tanh(scores / part.softcap)
        query_side = {"pos": arrays["query_pos"][rows]}
        if "query_segment" in arrays:
            query_side["segment"] = arrays["query_segment"][rows]
        key_side = {name: value[keys] for name, value in self._key_side.items()}
        if "alibi" in arrays:
            scores -= arrays["alibi"][head] * (query_side["pos"][:, None] - key_side["pos"][None])
        visible = part.rules.visible(query_side, key_side)
        if "seen_token" in arrays:
            scores, known = self._cells(part, head, rows, keys, scores)
            visible = known if visible is None else visible & known
        elif (keys >= self._keys_until(part)).any():  # keys that came with a later part
            late = np.broadcast_to(keys < self._keys_until(part), scores.shape)
            visible = late if visible is None else visible & late
        lse = np.asarray(arrays["lse"][head, rows])[:, None]
        known = np.isfinite(lse)
        scores = np.asarray(scores, dtype=np.float32)
        scores -= np.where(known, lse, 0)
        with np.errstate(over="ignore"):  # of hidden pairs, which are 0 below
            np.exp(scores, out=scores)
        hidden = np.broadcast_to(~(known if visible is None else visible & known), scores.shape)
        columns = np.flatnonzero(hidden.any(0))
        if len(columns):  # writing through a mask costs more than all the rest: only where it hides something
            there = np.s_[:, columns[0] : columns[-1] + 1]
            np.copyto(scores[there], 0, where=hidden[there])
        return scores

    def _keys_until(self, part: KeptPart) -> int:
        number = next(i for i, one in enumerate(self.parts) if one is part)
        return sum(len(one.arrays["key_token"]) for one in self.parts[: number + 1])

    def _cells(
        self, part: KeptPart, head: int, rows: np.ndarray, keys: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores with the part's bias, and which cells it saw, where mask or bias were kept cell by cell."""
        arrays = part.arrays
        tokens = arrays["seen_token"]
        column = np.searchsorted(tokens, self.key_tokens[keys])
        there = (column < len(tokens)) & (
            tokens[np.minimum(column, len(tokens) - 1)] == self.key_tokens[keys]
        )
        column = np.where(there, column, 0)
        known = np.broadcast_to(there, scores.shape)
        if "hidden" in arrays:
            bits = np.unpackbits(np.asarray(arrays["hidden"][rows]), axis=1, count=len(tokens))
            known = known & (bits[:, column] == 0)
        if "bias" in arrays:
            bias = arrays["bias"]
            scores = scores + bias[head if bias.shape[0] > 1 else 0, rows][:, column]
        return scores, known


class KeptRun:
    """What a report's folder kept: ``layer(...)`` for exact rows and tiles, ``map(...)`` for pooled maps."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def has_qk(self) -> bool:
        """Whether queries and keys were kept (``keep="qk"``)."""
        return (self.folder / QK_FOLDER).is_dir()

    @property
    def has_map(self) -> bool:
        """Whether pooled maps were kept (``keep="map"``)."""
        return (self.folder / MAP_FOLDER).is_dir()

    def layer(self, layer: int, *, tower: str = "decoder", prompt: int = 0) -> KeptLayer:
        """One layer's queries and keys, memory-mapped; raises `ReportError` where they were not kept."""
        folder = self.folder / QK_FOLDER / f"prompt-{prompt:05d}"
        files = sorted(folder.glob(f"{tower}.L{layer:03d}.part-*.safetensors"))
        if not files:
            raise ReportError(
                f"layer {layer} of tower {tower!r}, prompt {prompt}, was asked; {folder} does not hold it: "
                "analyze again with keep='qk'"
            )
        return KeptLayer(tower, layer, [_read_part(path) for path in files])

    def map(self, layer: int, *, tower: str = "decoder", prompt: int = 0) -> xr.DataArray:
        """One layer's pooled maps, axes (head, query_pos, key_pos): mean pattern per block, hidden pairs count as 0.

        The coordinates are the first token of each block; the attributes ``query_block`` and ``key_block`` its length.
        """
        path = self.folder / MAP_FOLDER / f"prompt-{prompt:05d}.safetensors"
        name = f"{tower}.L{layer:03d}"
        try:
            with safe_open(path, framework="numpy") as file:
                sizes = json.loads((file.metadata() or {})[name])
                values = file.get_tensor(name)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ReportError(
                f"the map of {tower} layer {layer}, prompt {prompt}, was asked; {path} does not hold it ({error}): "
                "analyze again with keep='map'"
            ) from error
        return map_array(values, sizes["query_block"], sizes["key_block"])


def map_array(values: np.ndarray, query_block: int, key_block: int) -> xr.DataArray:
    """Pooled maps with their axes named."""
    return xr.DataArray(
        values,
        dims=("head", "query_pos", "key_pos"),
        coords={
            "head": np.arange(values.shape[0]),
            "query_pos": np.arange(values.shape[1]) * query_block,
            "key_pos": np.arange(values.shape[2]) * key_block,
        },
        attrs={"query_block": query_block, "key_block": key_block},
    )


def _read_part(path: Path) -> KeptPart:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        call = json.loads(header.pop("__metadata__")["call"])
        whole = np.memmap(path, mode="r", offset=8 + length)
        arrays = {name: _array(whole, entry) for name, entry in header.items()}
        rules = Rules(tuple(call["all_of"]), tuple(call["any_of"]))
        return KeptPart(arrays, float(call["scale"]), call["softcap"], rules)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ReportError(
            f"{path} was asked; it cannot be read ({error!r}): analyze again with keep='qk'"
        ) from error


def _array(whole: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    start, stop = entry["data_offsets"]
    array: np.ndarray = whole[start:stop].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return array
