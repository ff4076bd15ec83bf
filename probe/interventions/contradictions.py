"""Interventions of one list that contradict each other, so that one of them would be lost without a word.

An intervention *settles* something where it puts a value of its own there, whatever was there before: `zero` and
`mean` settle z, `uniform_past` and `to_bos` a row of the pattern, `expert_off` whether an expert may be chosen. Two
that settle the same thing of the same head at the same rows, each in its own way, contradict each other. Edits that
change what they find (`scale`, `knockout`, `temperature`, …) never do: they compose, in the order of the list.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np

from probe.errors import InterventionError
from probe.interventions.span import SpanChoice
from probe.interventions.target import Target
from probe.prompts import Prompt
from probe.seam.call import Place
from probe.terms import HeadId

_PER_HEAD = ("z", "pattern")
_BEYOND = ("last", "response")  # spans that generated tokens belong to as well


@runtime_checkable
class Settles(Protocol):
    """An intervention that puts values of its own in place of what a run computes."""

    @property
    def name(self) -> str:
        """How reports name it."""

    @property
    def target(self) -> Target:
        """Where it acts."""

    @property
    def settles(self) -> Mapping[str, Hashable]:
        """What it settles (``z``, ``pattern``, ``resid``, …), and how: equal answers agree."""


def require_agreement(
    interventions: Sequence[Any], places: Mapping[str, Place], prompts: Sequence[Prompt] | None = None
) -> None:
    """Raise `InterventionError` where two interventions settle the same thing at the same place in different ways.

    Named rows are compared where prompts are known. Controls are left out: their heads are drawn, not asked for.
    """
    settling = [one for one in interventions if isinstance(one, Settles) and one.target.control_seed is None]
    for one, other in combinations(settling, 2):
        for what in one.settles.keys() & other.settles.keys():
            if one.settles[what] == other.settles[what]:
                continue
            where = _meeting(what, one.target, other.target, places)
            if where is not None and _rows_meet(one.target, other.target, prompts):
                raise InterventionError(
                    f"{one.name} and {other.name} were asked together; each settles the {what} of {where} at the same "
                    "rows, so only the later would act: leave one out, or give them different heads, rows or phases"
                )


def _meeting(what: str, one: Target, other: Target, places: Mapping[str, Place]) -> str | None:
    """The first head, layer or model part that two targets both mean; None if there is none."""
    for place in sorted(places.values(), key=lambda place: (place.tower, place.layer)):
        if not (one.covers(place) and other.covers(place)):
            continue
        if what not in _PER_HEAD:
            return f"{place.tower} layer {place.layer}"
        mine, theirs = _heads(one, place), _heads(other, place)
        if mine is None or theirs is None:
            both = mine or theirs
            return str(min(both)) if both else f"every head of {place.tower} layer {place.layer}"
        if mine & theirs:
            return str(min(mine & theirs))
    return None


def _heads(target: Target, place: Place) -> set[HeadId] | None:
    """The heads that a target names in a layer; None for all of them."""
    if target.heads is None:
        return None
    return {head for head in target.heads if (head.tower, head.layer) == (place.tower, place.layer)}


def _rows_meet(one: Target, other: Target, prompts: Sequence[Prompt] | None) -> bool:
    """Whether two targets surely have a query row in common."""
    phases = {one.phase, other.phase}
    if phases == {"prefill", "decode"}:
        return False
    mine, theirs = one.queries, other.queries
    if "all" in (mine, theirs) or mine == theirs:
        return True
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return max(mine[0], theirs[0]) < min(mine[1], theirs[1])
    if "prefill" not in phases and {mine, theirs} <= set(_BEYOND):
        return True
    return any(bool((_flags(mine, prompt) & _flags(theirs, prompt)).any()) for prompt in prompts or ())


def _flags(rows: SpanChoice, prompt: Prompt) -> np.ndarray:
    at = np.arange(len(prompt))
    if isinstance(rows, tuple):
        flags: np.ndarray = (at >= rows[0]) & (at < rows[1])
        return flags
    return np.asarray(prompt.spans.get(rows, np.zeros(len(prompt), dtype=bool)), dtype=bool)
