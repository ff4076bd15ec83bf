"""Which queries or keys were asked: a slice, token indices, or span names, always counted over real tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from probe.errors import UnknownNameError, UsageError

PositionsLike = slice | int | str | Sequence[int] | Sequence[str] | None


@dataclass(frozen=True)
class Axis:
    """What is known of one axis of tokens: their strings, how many the prompt has, how many there will be, its spans.

    `length` and `total` are None for axes without tokens (image patches, audio frames).
    """

    tokens: tuple[str, ...] | None = None
    length: int | None = None  # real tokens of the prompt: what negative numbers count from
    total: int | None = None  # with the tokens that generation will add
    spans: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Positions:
    """The positions asked on one axis; `asked` is None (all), a slice, indices or span names."""

    side: str  # "queries" or "keys", for messages
    asked: slice | tuple[int, ...] | tuple[str, ...] | None

    @classmethod
    def of(cls, side: str, asked: object) -> "Positions":
        """Read what a user gave; raises `UsageError` on anything but a slice, indices or span names."""
        if asked is None:
            return cls(side, None)
        if isinstance(asked, slice):
            if asked.step is not None and asked.step < 1:
                raise UsageError(
                    f"{side}={asked} was asked; positions run forwards: give a step of at least 1"
                )
            return cls(side, asked)
        if isinstance(asked, str | int | np.integer):
            asked = [asked]
        items = list(asked) if isinstance(asked, Iterable) else []
        if items and all(isinstance(one, str) for one in items):
            return cls(side, tuple(items))
        if items and all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in items):
            return cls(side, tuple(int(one) for one in items))
        raise UsageError(f"{side}={asked!r} was asked; give a slice, a list of token indices, or span names")

    def chosen(self, index: Int[np.ndarray, "n"], axis: Axis) -> Bool[np.ndarray, "n"]:
        """Which of these tokens were asked; `index` counts real tokens, -1 is padding and never chosen."""
        real = index >= 0
        asked = self.asked
        if asked is None:
            return real
        length = axis.length if axis.length is not None else int(index.max(initial=-1)) + 1
        if isinstance(asked, slice):
            start, stop = _from_end(asked.start, length) or 0, _from_end(asked.stop, length)
            inside: np.ndarray = real & (index >= start) & ((index - start) % (asked.step or 1) == 0)
            return inside if stop is None else inside & (index < stop)
        if asked and isinstance(asked[0], str):
            flags = np.zeros(length, dtype=bool)
            for name in asked:
                flags |= np.asarray(axis.spans[str(name)], dtype=bool)[:length]
            return real & np.isin(index, np.flatnonzero(flags))
        return real & np.isin(index, [int(one) if int(one) >= 0 else int(one) + length for one in asked])

    def check(self, axis: Axis) -> None:
        """Raise `UnknownNameError` or `UsageError` for a span or an index that the axis does not have."""
        asked = self.asked
        if isinstance(asked, tuple) and isinstance(asked[0], str):
            for name in asked:
                if name not in axis.spans:
                    if not axis.spans:
                        raise UsageError(
                            f"{self.side}={name!r} was asked; spans name tokens of the prompt, and this axis has none: "
                            "give indices or a slice, or leave out the layers of this tower"
                        )
                    raise UnknownNameError.of("span", str(name), axis.spans)
        if axis.length is None or axis.total is None:
            return
        if isinstance(asked, tuple) and not isinstance(asked[0], str):
            for one in asked:
                if not -axis.length <= int(one) < axis.total:
                    raise UsageError(
                        f"{self.side}={one} was asked; there are {axis.total} tokens: give indices below that"
                    )
        if not self.chosen(np.arange(axis.total), axis).any():
            raise UsageError(f"{self.side}={asked!r} was asked; none of the {axis.total} tokens is in it")


def _from_end(number: int | None, length: int) -> int | None:
    return number if number is None or number >= 0 else number + length
