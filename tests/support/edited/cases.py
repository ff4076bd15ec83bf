"""Every intervention that edits attention, as it is called and as a formula of dense attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from edited.dense import Dense, Formula, Part, Rows
from torch import Tensor

from probe import interventions as of
from probe.terms import HeadId

SPANS = {"a": (1, 3), "b": (3, 6), "c": (6, 8)}  # real tokens; every prompt of the subjects is longer


@dataclass(frozen=True)
class Case:
    """`make(heads, where)` is the intervention, `formula` what it must do at those heads (and `rows`)."""

    name: str
    make: Callable[[list[str], dict[str, Any]], Any]
    formula: Formula
    rows: Rows | None = None
    phase: str = "both"
    own: bool = False  # looks at the query's own position: not for cross-attention
    text: bool = True  # means tokens of the prompt: not for towers that read no text

    def fits(self, tower: str) -> bool:
        """Whether the case means anything in a tower."""
        if tower == "cross":
            return not self.own and not self.text
        return tower in ("decoder", "encoder") or not self.text


def part_of(case: Case, tower: str, layer: int, heads: tuple[int, ...]) -> Part:
    """Where the formula holds."""
    return Part(tower, layer, heads, case.phase, case.rows)


def named(tower: str, layer: int, heads: tuple[int, ...]) -> list[str]:
    """The same heads by name."""
    return [str(HeadId(tower, layer, head)) for head in heads]


def last_row(one: Dense) -> Tensor:
    """The last real row of every prompt, ``[B, 1, Q, 1]``."""
    return (one.i >= 0) & (one.i == one.i.amax(2, keepdim=True))


def _uniform(one: Dense) -> Dense:
    n = one.seen.sum(-1, keepdim=True)
    return one.with_pattern((one.seen / n.clamp_min(1)).expand_as(one.p).double())


def _cached(one: Dense) -> Dense:
    at, to = one.call.layout.key_pos[:, None, None, :], one.call.layout.query_pos[:, None, :, None]
    seen = (at <= to) & one.call.key_real[:, None, None, :]
    return one.with_pattern((seen / seen.sum(-1, keepdim=True).clamp_min(1)).expand_as(one.p).double())


def _first(one: Dense) -> Dense:
    only = one.seen & (one.seen.cumsum(-1) == 1)
    return one.with_pattern(only.expand_as(one.p).double())


def _own(one: Dense) -> Tensor:
    layout = one.call.layout
    return (layout.query_pos[:, None, :, None] == layout.key_pos[:, None, None, :]).double()


def _linear(one: Dense) -> Dense:
    scores = one.call.scores
    k = scores.key.double().repeat_interleave(one.p.shape[1] // scores.key.shape[1], dim=1)
    feature = torch.nn.functional.elu
    weights = (feature(scores.query.double()) + 1) @ (feature(k) + 1).transpose(-1, -2) * one.seen
    return one.with_pattern(weights / weights.sum(-1, keepdim=True).clamp_min(1e-300))


def _behind(one: Dense) -> Tensor:
    layout = one.call.layout
    return layout.query_pos[:, None, :, None] - layout.key_pos[:, None, None, :]


CASES: tuple[Case, ...] = (
    Case("zero", lambda h, w: of.zero(h, **w), lambda one: one.with_z(torch.zeros_like(one.z)), text=False),
    Case("scale", lambda h, w: of.scale(h, -1.5, **w), lambda one: one.with_z(one.z * -1.5), text=False),
    Case(
        "knockout",
        lambda h, w: of.knockout("all", (1, 4), h, **w),
        lambda one: one.with_scores(one.s.masked_fill(one.keys_in(1, 4), -torch.inf)),
    ),
)
BY_NAME = {case.name: case for case in CASES}
