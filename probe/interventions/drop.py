"""Dropped edges: some queries lose what some keys gave them, and the rest of the row stays as it is."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.editing import edit_probs
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.interventions.target import Region, Target, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Drop:
    """p := 0 from the chosen queries to the keys of a span, after the softmax: z loses exactly Σ p·v of the span.

    Rows sum to less than before; a learned sink keeps its mass. Renormalised: `knockout`.
    """

    target: Target
    keys: SpanChoice
    narrow: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("drop", self.target, keys=as_text(self.keys))

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """The keys."""
        return (self.keys,)

    def control(self, seed: int) -> "Drop":
        """The same edges, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Take the mass away, without giving it to other keys."""
        if not self.target.applies(call):
            return Edits()
        key_in = members(self.keys, call, call.key_index, "keys")
        if not bool(key_in.any()):
            return Edits()

        def cut(p: Tensor, _rows: slice, keys: slice) -> Tensor:
            return p.masked_fill(key_in[:, None, None, keys], 0.0)

        return edit_probs(self.target, call, cut)


def drop(
    queries: SpanChoice,
    keys: SpanChoice,
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Region],
) -> Drop:
    """Take away what a span's keys give to another span's queries, without renormalising the rows.

    z becomes z - z_g, with z_g = Σ p·v over the keys g: the direct contribution of the edges (Kobayashi et al. 2020,
    arXiv:2004.10102), taken out. `knockout` gives their mass to the other keys instead.

    Args:
        queries: A span's name, ``"all"``, ``"last"``, or ``(start, stop)`` in real tokens.
        keys: The keys whose mass is taken away, likewise.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower and phase: see `probe.interventions.target.Region`.

    Raises:
        UsageError: a span, head, layer or phase that cannot be one.
    """
    return Drop(Target.of(heads, {**where, "queries": queries}), checked(keys, "keys"))
