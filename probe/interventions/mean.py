"""Mean ablation: a head writes what it writes on average, whatever it sees."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from probe.errors import InterventionError, UsageError
from probe.interventions.conditional import Gather, Table, gather, table_at
from probe.interventions.conditional import Where as Layer
from probe.interventions.reference import as_over, notes_of, over_text, reference
from probe.interventions.substitute import Given, InStream, InZ, Rows, node_target
from probe.interventions.target import Target, Where, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Mean:
    """z (or the residual stream entering a layer) := its mean over a reference, at the chosen heads and rows."""

    target: Target
    node: str = "z"
    by_position: bool = False
    over: tuple[object, ...] | None = field(default=None, compare=False, repr=False)
    means: "Means | None" = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        node, over = None if self.node == "z" else self.node, over_text(self.over)
        return name_of("mean", self.target, node=node, by_position=self.by_position or None, over=over)

    @property
    def settles(self) -> dict[str, tuple[str, int]]:
        """What it replaces: z, or the stream."""
        return {self.node: (replace(self, target=Target()).name, id(self.over))}

    def control(self, seed: int) -> "Mean":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed), means=None)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None = None) -> "Mean":
        """The same with its means, from one run over the reference (none where that was done for this model).

        Raises:
            UsageError: there is no reference to run, or the model is already observed or edited.
            InterventionError: `by_position` with prompts of several lengths.
        """
        means = self.means
        if means is None or means.model is not loaded.model:
            feeds = reference(self.over, loaded, self.name)
            keys_of = _position if self.by_position else _anything
            tables = gather(loaded, feeds, Gather(self.target, self.node, keys_of), self.name)
            means = Means(self.name, loaded.model, tables, self.by_position, notes_of(feeds, self.name))
        if self.by_position:
            means.require_equal_lengths(prompts or ())
        return replace(self, means=means)

    def live(self) -> "InZ | InStream":
        """What edits while a session lasts; raises `UsageError` before `prepare`."""
        if self.means is None:
            raise UsageError(
                f"{self.name} has no means yet; use probe.edit, or call its prepare(model) first"
            )
        return InZ(self.target, self.means) if self.node == "z" else InStream(self.target, self.means)


@dataclass(frozen=True)
class Means:
    """Means of every layer, over all rows or per position."""

    what: str
    model: object
    tables: Mapping[Layer, Table]
    by_position: bool
    notes: tuple[str, ...] = ()

    def at(self, call: AttentionCall, heads: tuple[int, ...], _rows: Rows) -> Given:
        """The mean of each row; raises `InterventionError` where a position has none."""
        table = table_at(self.tables, call, self.what)
        mean = table.mean[:, table.of(heads, call.place.module)]
        if not self.by_position:
            return mean.transpose(0, 1)[None], None
        index = call.query_index
        size, length = len(mean), int(index.max()) + 1
        shorter = call.phase == "prefill" and bool((index.amax(1) + 1 != size).any())
        if length > size or shorter:
            raise InterventionError(
                f"{self.what} was asked; {call.place.module} has rows up to {length - 1}, and the reference has "
                f"means of exactly {size} positions: edit prompts of {size} tokens with phase='prefill', or leave "
                "by_position out"
            )
        return mean[index.clamp_min(0)].transpose(1, 2), index >= 0

    def require_equal_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Raise `InterventionError` where the reference, or the prompts, have several lengths."""
        sizes = set()
        for (module, layer), table in self.tables.items():
            if len(set(table.count.tolist())) != 1:
                raise InterventionError(
                    f"{self.what} was asked; reference prompts of several lengths ran through {module} (layer "
                    f"{layer}): means per position need prompts of one length, or leave by_position out"
                )
            sizes.add(len(table.mean))
        for prompt in prompts:
            if len(sizes) == 1 and len(prompt) not in sizes:
                raise InterventionError(
                    f"{self.what} was asked; prompt {prompt.id!r} has {len(prompt)} tokens, the reference's have "
                    f"{min(sizes)}: means per position need equal lengths, or leave by_position out"
                )


def _anything(call: AttentionCall) -> Tensor:
    return torch.zeros(call.size[0], call.size[1], dtype=torch.int64, device=call.layout.query_pos.device)


def _position(call: AttentionCall) -> Tensor:
    return call.query_index


def mean(
    heads: Iterable[str | HeadId] | None = None,
    node: Literal["z", "resid"] = "z",
    over: Sequence[object] | None = None,
    by_position: bool = False,
    **where: Unpack[Where],
) -> Mean:
    """Replace a head's output z, or the residual stream entering a layer, by its mean over a reference.

    z := E[z] over all real tokens of the reference, per head; with `by_position` z_i := E[z_i] per position, for a
    reference and edited prompts that all have one length. Means are summed in float64; memory is O(heads · d_head).
    Mean ablation as in Wang et al. 2023, arXiv:2211.00593 (there per position of a template).

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out. Not for a residual stream.
        node: ``z``, or ``resid``: the residual stream as it enters each chosen layer.
        over: The reference: a list of texts, Prompts, int tensors of tokens, or mappings of model inputs; left out,
            64 windows of 256 tokens of the shipped train text, drawn with seed 0.
        by_position: One mean per position.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span, phase, node or reference that cannot be one.
    """
    target = node_target(Target.of(heads, where), node, "mean")
    return Mean(target, node, bool(by_position), as_over(over, "mean"))
