"""What of a model was asked: which arrays, of which layers and heads, at which positions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analysis.captured.kinds import KINDS, POINTS
from probe.analysis.captured.positions import Positions, PositionsLike
from probe.errors import UnknownNameError, UsageError
from probe.terms import TOWER_PREFIX, HeadId

LayersLike = Sequence[int | str] | int | str | None
HeadsLike = Sequence[int | str | HeadId] | int | str | HeadId | None


@dataclass(frozen=True)
class Ask:
    """Everything that `capture` was asked for.

    A layer given as a number means that layer of every tower; as ``L3`` or ``enc.L3`` that of one tower. A
    head given as a number means that head of every asked layer; as ``L3.H1`` that one head, and its layer is
    asked with it.
    """

    what: tuple[str, ...]
    layers: frozenset[tuple[str | None, int]] | None
    heads: frozenset[int] | None
    named_heads: frozenset[HeadId]
    queries: Positions
    keys: Positions

    @classmethod
    def of(
        cls,
        what: Sequence[str] | str,
        layers: LayersLike = None,
        heads: HeadsLike = None,
        queries: PositionsLike = None,
        keys: PositionsLike = None,
    ) -> "Ask":
        """Read the arguments of `capture`; raises `UnknownNameError` or `UsageError` for what does not exist."""
        names = (what,) if isinstance(what, str) else tuple(dict.fromkeys(what))
        if not names:
            raise UsageError(f"nothing was asked; name some of {', '.join(KINDS)}")
        for name in names:
            if name not in KINDS:
                raise UnknownNameError.of("array", name, KINDS)
        numbers, named = _heads(heads)
        return cls(
            names,
            None if layers is None else frozenset(_layer(one) for one in _several(layers)),
            numbers,
            named,
            Positions.of("queries", queries),
            Positions.of("keys", keys),
        )

    @property
    def points(self) -> frozenset[str]:
        """The asked arrays that are not seen at attention."""
        return frozenset(self.what) & POINTS

    @property
    def at_attention(self) -> frozenset[str]:
        """The asked arrays that are seen at attention."""
        return frozenset(self.what) - POINTS

    def wants(self, tower: str, layer: int) -> bool:
        """Whether a layer was asked."""
        if self.layers is not None:
            return (tower, layer) in self.layers or (None, layer) in self.layers
        if self.heads is None and self.named_heads:
            return any((head.tower, head.layer) == (tower, layer) for head in self.named_heads)
        return True

    def heads_in(self, tower: str, layer: int, n_heads: int) -> list[int]:
        """The asked heads of a layer, ascending; raises `UnknownNameError` for one that it does not have."""
        named = {head.head for head in self.named_heads if (head.tower, head.layer) == (tower, layer)}
        if self.heads is None and not self.named_heads:
            return list(range(n_heads))
        chosen = sorted(named | (self.heads or frozenset()))
        for head in chosen:
            if head >= n_heads:
                known = [str(HeadId(tower, layer, one)) for one in range(n_heads)]
                raise UnknownNameError.of("head", str(HeadId(tower, layer, head)), known)
        return chosen

    def check_layers(self, known: Iterable[tuple[str, int]]) -> None:
        """Raise `UnknownNameError` for a layer that the model does not have."""
        known = list(known)
        names = [layer_name(tower, layer) for tower, layer in known]
        asked = set(self.layers or ()) | {(head.tower, head.layer) for head in self.named_heads}
        for tower, layer in sorted(asked, key=str):
            if not any((tower in (None, t)) and layer == n for t, n in known):
                raise UnknownNameError.of("layer", layer_name(tower or "decoder", layer), names)


def layer_name(tower: str, layer: int) -> str:
    """A layer's name, as heads are written: ``L18``, ``enc.L3``."""
    return f"{TOWER_PREFIX.get(tower, tower + '.')}L{layer}"


def _several(given: object) -> list[object]:
    return [given] if isinstance(given, str | int | HeadId | np.integer) else list(given)  # type: ignore[call-overload]


def _layer(one: object) -> tuple[str | None, int]:
    if isinstance(one, str):
        try:
            head = HeadId.parse(f"{one}.H0")
        except UsageError as error:
            raise UsageError(
                f"a layer was asked as {one!r}; layers are numbers, or written like L18 (or enc.L3)"
            ) from error
        return head.tower, head.layer
    if isinstance(one, int | np.integer) and not isinstance(one, bool) and one >= 0:
        return None, int(one)
    raise UsageError(
        f"a layer was asked as {one!r}; layers are numbers from 0, or written like L18 (or enc.L3)"
    )


def _heads(given: HeadsLike) -> tuple[frozenset[int] | None, frozenset[HeadId]]:
    if given is None:
        return None, frozenset()
    numbers, named = set(), set()
    for one in _several(given):
        if isinstance(one, HeadId):
            named.add(one)
        elif isinstance(one, str):
            named.add(HeadId.parse(one))
        elif isinstance(one, int | np.integer) and not isinstance(one, bool) and one >= 0:
            numbers.add(int(one))
        else:
            raise UsageError(f"a head was asked as {one!r}; heads are numbers from 0, or written like L18.H6")
    if not numbers and not named:
        raise UsageError("heads=[] was asked; leave it out for all heads, or name some")
    return frozenset(numbers) if numbers else None, frozenset(named)
