"""From transformers' mask functions to the kernels' predicates: recognised exactly, or evaluated tile by tile.

A mask function is a tree of closures made by ``transformers.masking_utils``. The builders are told apart by the
qualified name that Python gives a closure; whatever is not recognised is still right, only slower, because the
function itself is evaluated on each tile.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from probe_kernels.mask import Mask, Predicate, Tile, causal, near, rule, same_chunk, same_segment, within
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from probe.seam.masks import MaskFunction, MaskSpec


@dataclass
class Recognised:
    """The parts of a mask function: predicates that all hold, padding, and packed segments."""

    all_of: list[Predicate] = field(default_factory=list)
    any_of: list[Predicate] = field(default_factory=list)
    segments: Tensor | None = None  # int [batch, token]
    padding: list[Tensor] = field(default_factory=list)

    def mask(self) -> Mask:
        """The predicates as one mask."""
        return Mask(tuple(self.all_of), tuple(self.any_of))


def recognise(function: MaskFunction, spec: MaskSpec) -> Recognised:
    """The predicates that together equal `function`."""
    found = Recognised()
    _add(function, spec, found)
    return found


def _add(function: MaskFunction, spec: MaskSpec, found: Recognised) -> None:
    reader = _READERS.get(function.__qualname__) if inspect.isfunction(function) else None
    if function is causal_mask_function:
        found.all_of.append(causal())
    elif function is bidirectional_mask_function:
        return
    elif reader is None or not reader(_closure(function), spec, found):
        found.all_of.append(tiled(function, spec))


def _closure(function: MaskFunction) -> dict[str, Any]:
    return dict(inspect.getclosurevars(function).nonlocals)


def tiled(function: MaskFunction, spec: MaskSpec) -> Predicate:
    """Any index-based mask function, evaluated on absolute positions one tile at a time."""

    def visible(tile: Tile) -> Tensor:
        batch = torch.arange(spec.batch_size, device=spec.device)[:, None, None, None]
        head = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=spec.device)
        query, key = tile.query_pos[:1, None], tile.key_pos[:1, None]
        seen = function(batch, head, query, key)
        return seen.expand(spec.batch_size, 1, query.shape[2], key.shape[3])[:, 0]

    return rule(getattr(function, "__qualname__", "mask_function").split(".")[0], visible)


def _every(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    for part in nonlocals["mask_functions"]:
        _add(part, spec, found)
    return True


def _either(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    if found.any_of:
        return False
    sides: list[Predicate] = []
    for part in nonlocals["mask_functions"]:
        side = recognise(part, spec)
        if len(side.all_of) != 1 or side.any_of or side.padding or side.segments is not None:
            return False
        sides += side.all_of
    found.any_of += sides
    return True


def _window(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    found.all_of.append(within(int(nonlocals["sliding_window"])))
    return True


def _both_sides(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    found.all_of.append(near(int(nonlocals["sliding_window"])))
    return True


def _chunk(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    if bool(nonlocals["left_padding"].any()):
        return False
    found.all_of.append(same_chunk(int(nonlocals["chunk_size"])))
    return True


def _padding(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    found.padding.append(nonlocals["padding_mask"])
    return True


def _packed(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    if found.segments is not None:
        return False
    found.segments = nonlocals["packed_sequence_mask"]
    found.all_of.append(same_segment())
    return True


def _remapped(nonlocals: dict[str, Any], spec: MaskSpec, found: Recognised) -> bool:
    # Inside one packed segment positions rise by one, so a rule that depends on differences only reads the same
    # on storage positions. Chunks do not, and stay tiled.
    inner = recognise(nonlocals["mask_function"], spec)
    moves_freely = all(p.name == "causal" or p.name.startswith(("within", "near")) for p in inner.all_of)
    if inner.any_of or inner.padding or inner.segments is not None or not moves_freely:
        return False
    found.all_of += inner.all_of
    return True


_READERS: dict[str, Callable[[dict[str, Any], MaskSpec, Recognised], bool]] = {
    "and_masks.<locals>.and_mask": _every,
    "or_masks.<locals>.or_mask": _either,
    "sliding_window_overlay.<locals>.inner_mask": _window,
    "sliding_window_bidirectional_overlay.<locals>.inner_mask": _both_sides,
    "chunked_overlay.<locals>.inner_mask": _chunk,
    "padding_mask_function.<locals>.inner_mask": _padding,
    "packed_sequence_mask_function.<locals>.inner_mask": _packed,
    "remap_positions_for_packed_sequence.<locals>.inner_mask": _remapped,
}
