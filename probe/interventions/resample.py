"""Resample ablation: a head writes what it wrote in another text."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from probe.errors import BudgetError, InterventionError, UsageError
from probe.interventions import reference as reference_room
from probe.interventions.reference import as_over, notes_of, over_text, reference
from probe.interventions.rows_kept import KeepRows, KeptRows, Layer, keep_rows, kept_at
from probe.interventions.sequences import Order
from probe.interventions.substitute import Given, InStream, InZ, Rows, node_target
from probe.interventions.target import Target, Where, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Resample:
    """z (or the residual stream entering a layer) := that of a randomly drawn reference prompt, same position."""

    target: Target
    node: str = "z"
    seed: int = 0
    over: tuple[object, ...] | None = field(default=None, compare=False, repr=False)
    kept: "Mapping[Layer, KeptRows] | None" = field(default=None, compare=False, repr=False)
    model: object = field(default=None, compare=False, repr=False)
    reference_notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        node = None if self.node == "z" else self.node
        return name_of("resample", self.target, node=node, seed=self.seed, over=over_text(self.over))

    @property
    def settles(self) -> dict[str, tuple[str, int]]:
        """What it replaces: z, or the stream."""
        return {self.node: (replace(self, target=Target()).name, id(self.over))}

    def control(self, seed: int) -> "Resample":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed), kept=None)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None = None) -> "Resample":
        """The same with its reference's values, from one run (none where that was done for this model).

        Raises:
            UsageError: there is no reference to run, or the model is already observed or edited.
            BudgetError: the values of so many heads of so many prompts need more than 4 GiB.
        """
        if self.kept is not None and self.model is loaded.model:
            return self
        feeds = reference(self.over, loaded, self.name)
        n_rows = sum(sum(feed.lengths) for feed in feeds)

        def fits(width: int) -> None:
            if n_rows * width * 4 > reference_room.LIMIT:
                raise BudgetError(
                    f"{self.name} was asked; {n_rows} reference tokens of {width} numbers are "
                    f"{n_rows * width * 4 / 2**30:.1f} GiB: name fewer heads or layers, or give a shorter over=[...]"
                )

        kept = keep_rows(loaded, feeds, KeepRows(self.target, self.node, fits), self.name)
        return replace(self, kept=kept, model=loaded.model, reference_notes=notes_of(feeds, self.name))

    def live(self) -> "InZ | InStream":
        """What edits while a session lasts; raises `UsageError` before `prepare`."""
        if self.kept is None:
            raise UsageError(
                f"{self.name} has no reference yet; use probe.edit, or call its prepare(model) first"
            )
        drawn = Drawn(self.name, self.kept, self.seed, self.reference_notes)
        return InZ(self.target, drawn) if self.node == "z" else InStream(self.target, drawn)


class Drawn:
    """Values of one drawn reference prompt per sequence, the same for all its layers and steps."""

    def __init__(
        self, what: str, kept: Mapping[Layer, KeptRows], seed: int, reference_notes: tuple[str, ...] = ()
    ) -> None:
        self.what, self.kept, self.seed, self.reference_notes = what, kept, seed, reference_notes
        self.order = Order()
        self.wrapped: set[tuple[int, int]] = set()  # (sequence, position) beyond the drawn prompt

    @property
    def notes(self) -> Sequence[str]:
        """How many positions lay beyond the drawn prompt."""
        if not self.wrapped:
            return self.reference_notes
        return (
            *self.reference_notes,
            f"{self.what}: {len(self.wrapped)} tokens lie beyond their drawn reference prompt; they took its values "
            "from position 1 on again",
        )

    def at(self, call: AttentionCall, heads: tuple[int, ...], rows: Rows) -> Given:
        """The drawn prompt's values at each row's position."""
        kept = kept_at(self.kept, call, self.what)
        numbers = self.order.of(call)
        source = torch.tensor([self._draw(number, len(kept.lengths)) for number in numbers])
        source = source.to(kept.values.device)
        length = torch.tensor(kept.lengths, device=source.device)[source][:, None]
        index = call.query_index.to(source.device)
        if bool((length == 1).any()) and int(index.max()) > 0:
            raise InterventionError(
                f"{self.what} was asked; {call.place.module} saw a single row of its reference prompt, so nothing is "
                "known of later positions: give a longer over=[...]"
            )
        # Position 0 is unlike any other (it is where attention sinks), so it is never put elsewhere.
        at = torch.where(index < length, index, 1 + (index - 1) % (length - 1).clamp_min(1))
        self._note(numbers, index, (index >= length) & (True if rows is None else rows))
        return kept.rows(source, at, heads, call.place.module), None

    def _draw(self, number: int, n: int) -> int:
        return random.Random(f"resample/{self.seed}/{number}").randrange(n)  # noqa: S311 -- not a secret

    def _note(self, numbers: Sequence[int], index: Tensor, beyond: Tensor) -> None:
        for row, at in beyond.nonzero().tolist():
            self.wrapped.add((numbers[row], int(index[row, at])))


def resample(
    heads: Iterable[str | HeadId] | None = None,
    node: Literal["z", "resid"] = "z",
    over: Sequence[object] | None = None,
    seed: int = 0,
    **where: Unpack[Where],
) -> Resample:
    """Replace a head's output z, or the stream entering a layer, by that of another text at the same position.

    Each sequence of a session draws one reference prompt, by its number in the session and `seed` alone, for all its
    layers, heads and steps: batch size, padding and caching change nothing (rows that `generate` copies for beams draw
    for themselves, unless their prompts are announced). Positions beyond the drawn prompt take its
    values from position 1 on again (never position 0, where attention sinks), and a note counts them.
    Resample ablation of causal scrubbing (Chan et al. 2022). Memory is O(reference tokens · heads · d_head), 4 GiB at
    most.

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out. Not for a residual stream.
        node: ``z``, or ``resid``: the residual stream as it enters each chosen layer.
        over: The reference, as in `mean`.
        seed: Of the draw.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span, phase, node, seed or reference that cannot be one.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"resample with seed={seed!r} was asked; give a whole number")
    target = node_target(Target.of(heads, where), node, "resample")
    return Resample(target, node, seed, as_over(over, "resample"))
