"""What `capture` gives back: labelled arrays by name, apart by prompt, tower and layer where they must be."""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from xarray.core import indexing

from probe.analysis.captured.ask import layer_name
from probe.analysis.captured.kinds import KINDS
from probe.analysis.captured.lazy import Stack
from probe.analysis.captured.pieces import Slot
from probe.errors import UnknownNameError, UsageError


@runtime_checkable
class Source(Protocol):
    """Where the arrays are: in memory, or on the disk."""

    def slots(self) -> list[Slot]:
        """Every array there is."""

    def array(self, slot: Slot) -> xr.DataArray:
        """One array, labelled; lazy where it lies on the disk."""


class Captured:
    """Captured arrays by name: ``maps["pattern"]`` has axes (layer, head, query_pos, key_pos).

    A name's layers are stacked where they are equal in shape and labels. Where there are several prompts or
    towers, or ragged layers, choose first: ``maps.prompt(0)``, ``maps.tower("encoder")``,
    ``maps.layers("pattern")``. Positions count the real tokens of a prompt from 0; padding never appears.
    """

    def __init__(self, source: Source, notes: tuple[str, ...] = (), chosen: list[Slot] | None = None) -> None:
        self._source = source
        self._slots = source.slots() if chosen is None else chosen
        self.notes = notes

    def __getitem__(self, name: str) -> xr.DataArray:
        """A name's layers, stacked; raises `UsageError` where they cannot be, and says what to choose."""
        slots = self._of(name)
        for axis in ("prompt", "tower"):
            found = sorted({getattr(slot, axis) for slot in slots}, key=str)
            if len(found) > 1:
                raise UsageError(
                    f"{name!r} was asked of several {axis}s ({', '.join(map(str, found))}); choose one first: "
                    f"maps.{axis}({found[0]!r})[{name!r}]"
                )
        return self._stacked(name, slots)

    def __iter__(self) -> Iterator[str]:
        present = {slot.name for slot in self._slots}
        return iter(name for name in KINDS if name in present)

    def __len__(self) -> int:
        return len(set(self))

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def keys(self) -> list[str]:
        """The names that were captured."""
        return list(self)

    def __repr__(self) -> str:
        layers = len({(slot.tower, slot.layer) for slot in self._slots})
        return f"{type(self).__name__}({', '.join(self)}; {len(self.prompts)} prompt(s), {layers} layer(s))"

    @property
    def prompts(self) -> list[int]:
        """The prompts by number, in the order in which they were given."""
        return sorted({slot.prompt for slot in self._slots})

    @property
    def towers(self) -> list[str]:
        """The towers that hold something."""
        return sorted({slot.tower for slot in self._slots})

    def prompt(self, number: int) -> "Captured":
        """Only one prompt's arrays."""
        if number not in self.prompts:
            raise UnknownNameError.of("prompt", str(number), map(str, self.prompts))
        return self._only(lambda slot: slot.prompt == number)

    def tower(self, name: str) -> "Captured":
        """Only one tower's arrays."""
        if name not in self.towers:
            raise UnknownNameError.of("tower", name, self.towers)
        return self._only(lambda slot: slot.tower == name)

    def layers(self, name: str) -> dict[str, xr.DataArray]:
        """A name's arrays layer by layer, by the layer's name (``L18``, ``enc.L3``): for ragged layers.

        Raises `UsageError` where there are several prompts.
        """
        slots = self._of(name)
        if len({slot.prompt for slot in slots}) > 1:
            raise UsageError(
                f"{name!r} was asked of several prompts; choose one first: maps.prompt(0).layers({name!r})"
            )
        return {layer_name(slot.tower, slot.layer): self._source.array(slot) for slot in slots}

    def _of(self, name: str) -> list[Slot]:
        slots = sorted(slot for slot in self._slots if slot.name == name)
        if not slots:
            raise UnknownNameError.of("captured array", name, list(self))
        return slots

    def _only(self, keep: Callable[[Slot], bool]) -> "Captured":
        return Captured(self._source, self.notes, [slot for slot in self._slots if keep(slot)])

    def _stacked(self, name: str, slots: list[Slot]) -> xr.DataArray:
        arrays = [self._source.array(slot) for slot in slots]
        first = arrays[0]
        for array in arrays[1:]:
            if array.shape != first.shape or not _same_labels(array, first):
                shapes = ", ".join(
                    f"{layer_name(s.tower, s.layer)} {a.shape}" for s, a in zip(slots, arrays, strict=True)
                )
                raise UsageError(
                    f"{name!r} was asked of layers that differ ({shapes}); take them apart: maps.layers({name!r})"
                )
        stack = indexing.LazilyIndexedArray(Stack([array.variable for array in arrays]))
        coords = {key: value for key, value in first.coords.items() if key != "layer"}
        coords["layer"] = ("layer", np.array([slot.layer for slot in slots]))
        data = xr.Variable(("layer", *first.dims), stack, first.attrs)
        stacked = xr.DataArray(data, coords=coords, name=name)
        return stacked if any(_on_disk(array) for array in arrays) else stacked.load()


def _on_disk(array: xr.DataArray) -> bool:
    return not array.variable._in_memory


def _same_labels(one: xr.DataArray, other: xr.DataArray) -> bool:
    """Same heads and positions; token strings follow from those."""
    return all(
        np.array_equal(one.coords[axis], other.coords[axis]) for axis in one.dims if axis in one.coords
    )
