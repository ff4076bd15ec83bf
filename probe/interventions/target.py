"""Where an intervention applies: heads, layers, towers, query rows and phases; and the matched random control."""

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId

PHASES = ("prefill", "decode", "both")
SELECTS = ("fixed", "per_step", "first_step")


class Region(TypedDict, total=False):
    """The keywords that every intervention takes besides its own; most take those of `Where`.

    - ``layers``: restricts to these layers.
    - ``tower``: restricts to one tower (``decoder``, ``encoder``, ``cross``, ``vision``, ``audio``).
    - ``phase``: ``prefill``, ``decode`` (every forward that continues a cached sequence) or ``both``.
    - ``select``: ``fixed`` (the heads as named); where an intervention chooses heads by what it sees, also ``per_step``
      (anew in every forward) and ``first_step`` (in the prompt's forward, then kept).
    """

    layers: Iterable[int] | None
    tower: str | None
    phase: str
    select: str


class Where(Region, total=False):
    """The keywords of `Region`, and ``queries``, which restricts an intervention to some query rows.

    They are a span's name, ``(start, stop)`` in real tokens, ``"last"`` (the row that predicts the next token: the last
    of a prompt, and every generated one), or ``"all"``.
    """

    queries: SpanChoice


_KNOWN = ("layers", "tower", "phase", "select", "queries")


@dataclass(frozen=True)
class Target:
    """A choice of heads and rows; `heads` None means every head of the chosen layers and towers.

    With `control_seed` set, every layer's heads are replaced by as many others of it, drawn at random.
    """

    heads: tuple[HeadId, ...] | None = None
    layers: tuple[int, ...] | None = None
    tower: str | None = None
    phase: str = "both"
    queries: SpanChoice = "all"
    select: str = "fixed"
    control_seed: int | None = None

    @classmethod
    def of(
        cls,
        heads: Iterable[str | HeadId] | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        selects: Collection[str] = ("fixed",),
    ) -> "Target":
        """Read what a user typed; raises `UsageError` on a choice that cannot be one.

        `selects` are the ways of choosing heads that the intervention has; the first is its default.
        """
        asked = dict(where or {})
        unknown = asked.keys() - set(_KNOWN)
        if unknown:
            raise UnknownNameError.of("parameter", min(unknown), _KNOWN)
        phase, select = asked.get("phase", "both"), asked.get("select", next(iter(selects)))
        tower = asked.get("tower")
        if not (tower is None or (isinstance(tower, str) and tower)):
            raise UsageError(f"tower={tower!r} was asked; a tower is a name, such as decoder or encoder")
        if phase not in PHASES:
            raise UsageError(f"phase {phase!r} was asked; it is one of {', '.join(PHASES)}")
        if select not in selects:
            raise UsageError(f"select {select!r} was asked; this intervention has {', '.join(selects)}")
        return cls(
            _heads(heads),
            _layers(asked.get("layers")),
            tower,
            str(phase),
            checked(asked.get("queries", "all"), "queries"),
            str(select),
        )

    def control(self, seed: int) -> "Target":
        """As many other heads in each layer, drawn with `seed`; raises `UsageError` if all are chosen."""
        if self.heads is None:
            raise UsageError(
                "a control was asked for every head of a layer; name heads=[...] so that others remain"
            )
        return replace(self, control_seed=seed)

    def applies(self, call: AttentionCall) -> bool:
        """Whether any head of this call is chosen, in this phase."""
        return self.phase in ("both", call.phase) and self.covers(call.place)

    def covers(self, place: Place) -> bool:
        """Whether any head of this layer is chosen, whatever the phase."""
        return (
            (self.tower is None or place.tower == self.tower)
            and (self.layers is None or place.layer in self.layers)
            and (self.heads is None or bool(self._named(place)))
        )

    def heads_of(self, call: AttentionCall) -> tuple[int, ...]:
        """The chosen heads of a call, ascending; raises `UnknownNameError` for a head that is not there."""
        return self.among(call.place, call.n_heads) if self.applies(call) else ()

    def among(self, place: Place, n_heads: int) -> tuple[int, ...]:
        """The chosen heads of a layer with so many; raises `UnknownNameError` for a head that is not there."""
        if not self.covers(place):
            return ()
        if self.heads is None:
            return tuple(range(n_heads))
        chosen = self._named(place)
        for head in chosen:
            if head >= n_heads:
                asked, last = (str(HeadId(place.tower, place.layer, one)) for one in (head, n_heads - 1))
                raise UnknownNameError(
                    f"unknown head {asked!r}; layer {place.layer} of the {place.tower} has {n_heads} heads: "
                    f"name one up to {last}"
                )
        return tuple(chosen) if self.control_seed is None else self._others(place, chosen, n_heads)

    def rows_of(self, call: AttentionCall) -> Bool[Tensor, "batch query_pos"] | None:
        """The chosen query rows; None where every row is chosen."""
        return None if self.queries == "all" else members(self.queries, call, call.query_index, "queries")

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `UnknownNameError` where a chosen tower, layer or head does not exist, so that no edit is lost."""
        towers = {place.tower for place in places.values()}
        if self.tower is not None and self.tower not in towers:
            raise UnknownNameError.of("tower", self.tower, towers)
        found = {(place.tower, place.layer) for place in places.values()}
        for head in self.heads or ():
            if (head.tower, head.layer) not in found:
                raise UnknownNameError(f"unknown head {str(head)!r}; {_layers_of(head.tower, found)}")
        for layer in self.layers or ():
            if not any(number == layer and self.tower in (None, tower) for tower, number in found):
                raise UnknownNameError.of("layer", str(layer), {str(number) for _, number in found})
        if not any(self.covers(place) for place in places.values()):
            raise InterventionError(
                f"{self} was asked; no layer has all of that: name heads of the layers and the tower that you name"
            )
        for module, place in places.items():
            if module in heads:
                self.among(place, heads[module])

    def _named(self, place: Place) -> list[int]:
        return [h.head for h in self.heads or () if (h.tower, h.layer) == (place.tower, place.layer)]

    def _others(self, place: Place, chosen: list[int], n_heads: int) -> tuple[int, ...]:
        others = [head for head in range(n_heads) if head not in chosen]
        if len(others) < len(chosen):
            raise UsageError(
                f"a control for {len(chosen)} of {n_heads} heads of {place.module} was asked; "
                f"only {len(others)} other heads are left: edit at most half of a layer's heads"
            )
        draw = random.Random(f"{self.control_seed}/{place.tower}/{place.layer}")  # noqa: S311 -- not a secret
        return tuple(sorted(draw.sample(others, len(chosen))))

    def __str__(self) -> str:
        parts = []
        if self.heads is not None:
            parts.append("heads=" + "+".join(map(str, self.heads)))
        if self.layers is not None:
            parts.append("layers=" + "+".join(map(str, self.layers)))
        if self.tower is not None:
            parts.append(f"tower={self.tower}")
        if self.queries != "all":
            parts.append(f"queries={as_text(self.queries)}")
        if self.phase != "both":
            parts.append(f"phase={self.phase}")
        if self.select != "fixed":
            parts.append(f"select={self.select}")
        if self.control_seed is not None:
            parts.append(f"control={self.control_seed}")
        return ",".join(parts)


def _heads(heads: Iterable[str | HeadId] | None) -> tuple[HeadId, ...] | None:
    if heads is None:
        return None
    if isinstance(heads, str):
        raise UsageError(f"heads={heads!r} was asked; give a list of heads, such as [{heads!r}]")
    listed = list(heads) if isinstance(heads, Iterable) else None
    if listed is None or not all(isinstance(one, str | HeadId) for one in listed):
        raise UsageError(f"heads={heads!r} was asked; give a list of heads, such as ['L18.H6']")
    named = tuple(sorted({h if isinstance(h, HeadId) else HeadId.parse(h) for h in listed}))
    if not named:
        raise UsageError("heads=[] was asked; name at least one head, or leave heads out for all of them")
    return named


def _layers_of(tower: str, found: Collection[tuple[str, int]]) -> str:
    """What layers there are in a tower, and what to do about it, for an error."""
    numbers = sorted(layer for name, layer in found if name == tower)
    if not numbers:
        return f"the model has no {tower}: name heads of {', '.join(sorted({name for name, _ in found}))}"
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"the {tower} has layers {numbers[0]} to {numbers[-1]}: name one of these"
    return f"the {tower} has attention in layers {', '.join(map(str, numbers))}: name one of these"


def _layers(layers: object) -> tuple[int, ...] | None:
    if layers is None:
        return None
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise UsageError(f"layers={layers!r} was asked; give a list of layer numbers")
    listed = list(layers)
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in listed):
        raise UsageError(f"layers={listed!r} was asked; layers are whole numbers, counted from 0")
    chosen = tuple(sorted(set(listed)))
    if not chosen:
        raise UsageError("layers=[] was asked; name at least one layer, or leave layers out for all of them")
    return chosen


def name_of(kind: str, target: Target, /, **parameters: object) -> str:
    """An intervention's name as reports show it and ``make`` reads it: ``scale:heads=L18.H6,alpha=2``."""
    shown = [f"{key}={_text(value)}" for key, value in parameters.items() if value is not None]
    parts = ",".join([*([str(target)] if str(target) else []), *shown])
    return f"{kind}:{parts}" if parts else kind


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        if len(value) == 2 and all(isinstance(x, int) for x in value):
            return as_text((value[0], value[1]))
        return "+".join(_text(one) for one in value)
    return str(value)


def row_mask(
    rows: Bool[Tensor, "batch query_pos"] | None, part: slice
) -> Bool[Tensor, "batch 1 query_pos 1"] | None:
    """The rows of one block, broadcastable over heads and keys; None = all of them."""
    return None if rows is None else rows[:, None, part, None]


def on_rows(edited: Tensor, before: Tensor, rows: Tensor | None) -> Tensor:
    """`edited` at the chosen rows and `before` elsewhere; `rows` broadcasts, None = everywhere."""
    return edited if rows is None else torch.where(rows, edited, before)
