"""Knock-out: some queries can no longer see some keys, and the rest of the row is renormalised."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Unpack

from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.edges import Edges
from probe.interventions.editing import edit_scores
from probe.interventions.span import SpanChoice, as_text, checked
from probe.interventions.target import Region, Target, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Knockout(Edges):
    """s := -inf from the chosen queries to the keys of a span, before the softmax.

    A row whose keys are all knocked out sees nothing: z = 0.
    """

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("knockout", self.target, keys=as_text(self.keys))

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the edges inside the sweep, so that z and every statistic come from the edited row."""
        key_in = self.keys_in(call)
        if key_in is None:
            return Edits()

        def hide(block: Tensor, rows: slice, keys: slice) -> Tensor:
            return block.masked_fill(key_in[:, None, None, keys], float("-inf"))

        return edit_scores(self.target, call, hide)


def knockout(
    queries: SpanChoice,
    keys: SpanChoice,
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Region],
) -> Knockout:
    """Forbid attention from a span's queries to another span's keys, and renormalise.

    Attention knockout of Geva et al. 2023, arXiv:2304.14767.

    Args:
        queries: A span's name, ``"all"``, ``"last"``, or ``(start, stop)`` in real tokens.
        keys: The keys to hide, likewise.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower and phase: see `probe.interventions.target.Region`.

    Raises:
        UsageError: a span, head, layer or phase that cannot be one.
    """
    return Knockout(Target.of(heads, {**where, "queries": queries}), checked(keys, "keys"))
