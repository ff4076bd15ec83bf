"""Dropped edges: some queries lose what some keys gave them, and the rest of the row stays as it is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Unpack

from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.edges import Edges
from probe.interventions.editing import edit_probs
from probe.interventions.span import SpanChoice, as_text, checked
from probe.interventions.target import Region, Target, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Drop(Edges):
    """p := 0 from the chosen queries to the keys of a span, after the softmax: z loses exactly Σ p·v of the span.

    Rows sum to less than before; a learned sink keeps its mass. Renormalised: `knockout`.
    """

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("drop", self.target, keys=as_text(self.keys))

    def edits(self, call: AttentionCall) -> Edits:
        """Take the mass away, without giving it to other keys."""
        key_in = self.keys_in(call)
        if key_in is None:
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
