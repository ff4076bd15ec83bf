"""Static attention: a head's mean map over a reference, put in the place of its own map."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import torch
from jaxtyping import Float
from probe_kernels import pattern_block
from probe_kernels.types import Attended, BlockEdit, Edits, Want
from torch import Tensor

from probe.errors import InterventionError, UnsupportedAttentionError, UsageError
from probe.interventions.editing import visible
from probe.interventions.feeds import run_feeds
from probe.interventions.reference import as_over, notes_of, over_text, reference
from probe.interventions.target import Target, Where, name_of, on_rows, row_mask
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall
from probe.seam.session import Session
from probe.terms import HeadId

Layer = tuple[str, int]  # module and layer: one module may be several layers


@dataclass(frozen=True)
class Map:
    """The mean maps of a layer's chosen heads; a learned sink's mean mass is what is missing from a row's sum."""

    heads: tuple[int, ...]
    mean: Float[Tensor, "head query_pos key_pos"]


@dataclass(frozen=True)
class Static:
    """p := the mean map of `size` reference tokens, at the chosen heads and rows, whatever the text."""

    target: Target
    size: int
    over: tuple[object, ...] | None = field(default=None, compare=False, repr=False)
    maps: "Mapping[Layer, Map] | None" = field(default=None, compare=False, repr=False)
    model: object = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("static", self.target, size=self.size, over=over_text(self.over))

    @property
    def settles(self) -> dict[str, tuple[str, int]]:
        """The chosen heads' pattern."""
        return {"pattern": (replace(self, target=Target()).name, id(self.over))}

    def control(self, seed: int) -> "Static":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed), maps=None)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None = None) -> "Static":
        """The same with its maps, from one run over the reference (none where that was done for this model).

        Raises:
            UsageError: there is no reference to run, or the model is already observed or edited.
            InterventionError: a prompt is longer than the maps.
        """
        for prompt in prompts or ():
            if len(prompt) > self.size:
                raise InterventionError(
                    f"{self.name} was asked; prompt {prompt.id!r} has {len(prompt)} tokens: ask for "
                    f"size={len(prompt)}, or cut the prompt"
                )
        if self.maps is not None and self.model is loaded.model:
            return self
        feeds = reference(self.over, loaded, self.name, exactly=self.size)
        watch = _Maps(self.target)
        run_feeds(loaded, feeds, Session(loaded.model, (watch,)), self.name)
        return replace(self, maps=watch.maps(), model=loaded.model, notes=notes_of(feeds, self.name))

    def edits(self, call: AttentionCall) -> Edits:
        """Put the mean rows in the place of the block's, inside the sweep."""
        heads, rows = self.target.heads_of(call), self.target.rows_of(call)
        if not heads or (rows is not None and not bool(rows.any())):
            return Edits()
        mean = self._map(call, heads)
        query, key = call.query_index, call.key_index
        self._fits(call, query if rows is None else query.masked_fill(~rows, -1), mean)

        def block_of(part: slice, keys: slice) -> Tensor:
            at_q, at_k = query[:, part], key[:, keys]
            inside = (at_q[:, :, None] >= 0) & (at_k[:, None] >= 0) & (at_k[:, None] < mean.shape[2])
            inside = inside & visible(call, part, keys)
            block = mean[:, at_q.clamp(0, mean.shape[1] - 1)[:, :, None], _within(at_k, mean.shape[2])]
            return block.transpose(0, 1) * inside[:, None]

        def apply(block: Tensor, part: slice, keys: slice) -> Tensor:
            return on_rows(block_of(part, keys).to(block.dtype), block, row_mask(rows, part))

        def sinks(mass: Tensor, part: slice) -> Tensor:
            left = (1.0 - mean.sum(-1))[:, query[:, part].clamp(0, mean.shape[1] - 1)].transpose(0, 1)
            chosen = row_mask(rows, part)
            return on_rows(left.to(mass.dtype), mass, None if chosen is None else chosen[..., 0])

        learned = call.scores is not None and call.scores.sinks is not None
        return Edits(probs=(BlockEdit(apply, heads, sinks if learned else None),))

    def _map(self, call: AttentionCall, heads: tuple[int, ...]) -> Tensor:
        if self.maps is None:
            raise UsageError(f"{self.name} has no maps yet; use probe.edit, or call its prepare(model) first")
        found = self.maps.get((call.place.module, call.place.layer))
        if found is None or not set(heads) <= set(found.heads):
            raise InterventionError(
                f"{self.name} was asked; the reference gave no map of heads {list(heads)} of {call.place.module}: "
                "give over=[model inputs] that run through it"
            )
        return found.mean[[found.heads.index(head) for head in heads]]

    def _fits(self, call: AttentionCall, query: Tensor, mean: Tensor) -> None:
        """Raise `InterventionError` for rows beyond the map, and for keys that a map without an order must all have."""
        last, size = int(query.max()), int(mean.shape[1])
        if last >= size:
            raise InterventionError(
                f"{self.name} was asked; {call.place.module} has row {last} and its map has {size} rows (0 to "
                f"{size - 1}): ask for a larger size, fewer tokens, or queries=(0, {size})"
            )
        n_keys = call.key_index.amax(1) + 1
        if not call.causal and bool((n_keys != mean.shape[2]).any()):
            raise InterventionError(
                f"{self.name} was asked; {call.place.module} sees {n_keys.tolist()} keys, and its map is over exactly "
                f"{mean.shape[2]}: where later keys are seen, every sequence must have the reference's length"
            )


class _Maps:
    """Observer that sums patterns of the chosen heads in float64."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._sums: dict[Layer, tuple[tuple[int, ...], Tensor, int]] = {}
        self._device: dict[Layer, torch.device] = {}

    def want(self, _call: AttentionCall) -> Want:
        """Nothing: patterns are formed from the call."""
        return Want(z=False)

    def update(self, call: AttentionCall, _attended: Attended) -> None:
        """Add the patterns of one call."""
        heads = self.target.among(call.place, call.n_heads)
        if not heads:
            return
        if call.scores is None:
            raise UnsupportedAttentionError(
                f"{call.place.module} bypasses transformers' attention registry, so it cannot be given another map"
            )
        if not bool((call.query_real.all() & call.key_real.all()).item()):
            raise InterventionError(
                f"static: a reference of {call.place.module} holds padding; give it without"
            )
        n, width, length = call.size
        pattern = pattern_block(call.scores, call.layout, slice(0, width), slice(0, length), heads=heads)
        total = pattern.detach().cpu().double().sum(0)
        key = (call.place.module, call.place.layer)
        _, before, count = self._sums.get(key, (heads, torch.zeros_like(total), 0))
        if before.shape != total.shape:
            raise InterventionError(
                f"static: reference maps of {call.place.module} are {list(before.shape[1:])} and "
                f"{list(total.shape[1:])}; give a reference of one length"
            )
        self._sums[key] = (heads, before + total, count + n)
        self._device[key] = pattern.device

    def maps(self) -> Mapping[Layer, Map]:
        """The mean maps of every layer."""
        if not self._sums:
            raise InterventionError(
                "static: the reference ran through none of the chosen layers; give another over="
            )
        return {
            key: Map(heads, (total / count).float().to(self._device[key]))
            for key, (heads, total, count) in self._sums.items()
        }


def _within(at: Tensor, size: int) -> Tensor:
    return at.clamp(0, size - 1)[:, None]


def static(
    heads: Iterable[str | HeadId] | None = None,
    over: Sequence[object] | None = None,
    size: int = 256,
    **where: Unpack[Where],
) -> Static:
    """Replace a head's map by its mean over reference prompts of `size` tokens, so that its text no longer steers it.

    p[i, j] := E[A[i, j]]; a learned sink's mass := its mean. Rows at decode are rows of the map like any other; rows
    beyond `size` are refused. Where keys are hidden that the reference saw, their mass is lost. The post-hoc form of
    the static maps in "Deconstructing attention", which trains with them. Memory is heads · size² floats (256: 256 KiB
    per head).

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        over: The reference, as in `mean`, cut to `size` tokens; model inputs must all have one length.
        size: Rows and keys of the map, in tokens, at least 1.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span, phase, size or reference that cannot be one.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"static with size={size!r} was asked; give a number of tokens, at least 1")
    return Static(Target.of(heads, where), size, as_over(over, "static"))
