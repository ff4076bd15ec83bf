"""CAMA: context-aware mean ablation, what a head or a stream is on average given the token at hand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Unpack

import torch
from jaxtyping import Int
from torch import Tensor

from probe.errors import InterventionError, UsageError
from probe.interventions.conditional import Gather, Table, gather, table_at
from probe.interventions.conditional import Where as Layer
from probe.interventions.feeds import Feed
from probe.interventions.reference import as_over, notes_of, over_text, reference
from probe.interventions.substitute import Given, InStream, InZ, Rows, node_target
from probe.interventions.target import Target, Where, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class MeanByToken:
    """x := E[x | token], at the chosen rows: the residual stream entering a layer, or z of chosen heads."""

    target: Target
    node: str = "resid"
    by_position: bool = False
    over: tuple[object, ...] | None = field(default=None, compare=False, repr=False)
    means: "TokenMeans | None" = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        node, over = None if self.node == "resid" else self.node, over_text(self.over)
        return name_of(
            "mean_by_token", self.target, node=node, by_position=self.by_position or None, over=over
        )

    @property
    def settles(self) -> dict[str, tuple[str, int]]:
        """What it replaces: z, or the stream."""
        return {self.node: (replace(self, target=Target()).name, id(self.over))}

    def control(self, seed: int) -> "MeanByToken":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed), means=None)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None = None) -> "MeanByToken":
        """The same with its means, from one run over the reference (none where that was done for this model).

        Raises:
            UsageError: there is no reference to run, or the model is already observed or edited.
            InterventionError: the reference has no token ids.
        """
        if self.means is not None and self.means.model is loaded.model:
            return self
        feeds = reference(self.over, loaded, self.name)
        keys = TokenKeys(self.name, _vocabulary(feeds, self.name), self.by_position)
        tables = gather(loaded, feeds, Gather(self.target, self.node, keys), self.name)
        return replace(self, means=TokenMeans(loaded.model, tables, keys, notes_of(feeds, self.name)))

    def live(self) -> "InZ | InStream":
        """What edits while a session lasts; raises `UsageError` before `prepare`."""
        if self.means is None:
            raise UsageError(
                f"{self.name} has no means yet; use probe.edit, or call its prepare(model) first"
            )
        own = replace(self.means, unseen=set(), rows=[0, 0])
        return InZ(self.target, own) if self.node == "z" else InStream(self.target, own)


@dataclass(frozen=True)
class TokenKeys:
    """The key of a row: its token's number in the reference's vocabulary, or that and its position."""

    what: str
    vocabulary: Int[Tensor, "known"]  # ascending
    by_position: bool

    def __call__(self, call: AttentionCall) -> Int[Tensor, "batch query_pos"]:
        """The key of every row; -1 for padding and for tokens that the reference never showed."""
        tokens = self.tokens(call)
        known = self.vocabulary.to(tokens.device)
        at = torch.searchsorted(known, tokens).clamp_max(len(known) - 1)
        index = call.query_index
        key = at + index.clamp_min(0) * len(known) if self.by_position else at
        return key.masked_fill((known[at] != tokens) | (index < 0), -1)

    def tokens(self, call: AttentionCall) -> Int[Tensor, "batch query_pos"]:
        """The token of every row; raises `InterventionError` where the model was not given token ids."""
        tokens, positions = call.batch.tokens, call.layout.query_pos.expand(call.size[0], -1)
        if tokens is None or len(tokens) != call.size[0] or int(positions.max()) >= tokens.shape[1]:
            raise InterventionError(
                f"{self.what} was asked; the rows of {call.place.module} are not token ids that are known: "
                "give the model input_ids, and name a tower that reads them"
            )
        return torch.gather(tokens, 1, positions.to(tokens.device))


@dataclass(frozen=True)
class TokenMeans:
    """Means of every layer by key; rows whose key is unknown take the overall mean, and are counted."""

    model: object
    tables: Mapping[Layer, Table]
    keys: TokenKeys
    reference_notes: tuple[str, ...] = ()
    unseen: set[tuple[int, int, int]] = field(default_factory=set)  # (sequence, position, token)
    rows: list[int] = field(default_factory=lambda: [0, 0])  # edited rows that took the overall mean, and all

    @property
    def notes(self) -> Sequence[str]:
        """How many rows took the overall mean."""
        if not self.rows[0]:
            return self.reference_notes
        tokens = len({token for _, _, token in self.unseen})
        kind = "tokens at positions" if self.keys.by_position else "tokens"
        return (
            *self.reference_notes,
            f"{self.keys.what}: {self.rows[0]} of {self.rows[1]} edited rows hold {kind} that the reference never "
            f"showed ({tokens} different tokens); they took the mean over all tokens",
        )

    def at(self, call: AttentionCall, heads: tuple[int, ...], rows: Rows) -> Given:
        """The mean given each row's token."""
        table = table_at(self.tables, call, self.keys.what)
        columns, keys = table.of(heads, call.place.module), self.keys(call)
        inside = keys.clamp(0, len(table.count) - 1)
        known = (keys >= 0) & (keys == inside) & (table.count[inside] > 0)
        self._count(call, known, call.query_real if rows is None else rows & call.query_real)
        value = torch.where(known[..., None, None], table.mean[inside][:, :, columns], table.overall[columns])
        return value.transpose(1, 2), None

    def _count(self, call: AttentionCall, known: Tensor, rows: Tensor) -> None:
        self.rows[1] += int(rows.sum())
        missing = rows & ~known
        if not bool(missing.any()):
            return
        self.rows[0] += int(missing.sum())
        tokens = self.keys.tokens(call)
        for row, at in missing.nonzero().tolist():
            self.unseen.add((call.batch.prompts[row], int(call.query_index[row, at]), int(tokens[row, at])))


def _vocabulary(feeds: Sequence[Feed], what: str) -> Tensor:
    names = ("input_ids", "decoder_input_ids")
    ids = [feed.inputs[name].reshape(-1).cpu() for feed in feeds for name in names if name in feed.inputs]
    if not ids:
        raise InterventionError(
            f"{what} was asked; the reference has no token ids: give over= with input_ids"
        )
    known: Tensor = torch.unique(torch.cat(ids).long())
    return known


def mean_by_token(
    heads: Iterable[str | HeadId] | None = None,
    node: Literal["z", "resid"] = "resid",
    over: Sequence[object] | None = None,
    by_position: bool = False,
    **where: Unpack[Where],
) -> MeanByToken:
    """Replace a layer's state by its mean over the reference's rows that hold the same token: E[x | token].

    Context-aware mean ablation (CAMA) of "All for One", which sets the residual stream entering layer L_wait to
    E[h(x', t) | x'_t = x_t]: ``mean_by_token(layers=[14], by_position=True, over=task_prompts)``. Deviation: by default
    the mean runs over all positions, for a general reference seldom shows a token twice at one position. Rows whose
    token (with `by_position`: at that position) the reference never showed take the mean over all rows; a note counts
    them. Memory is O(tokens that were seen · heads · d_head).

    Args:
        heads: Heads, for ``node="z"`` only; all heads of the chosen layers if left out.
        node: ``resid``: the residual stream as it enters each chosen layer; or ``z``.
        over: The reference, as in `mean`.
        by_position: Condition on the position as well.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span, phase, node or reference that cannot be one.
    """
    target = node_target(Target.of(heads, where), node, "mean_by_token")
    return MeanByToken(target, node, bool(by_position), as_over(over, "mean_by_token"))
