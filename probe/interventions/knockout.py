"""Knock-out: some queries can no longer see some keys, and the rest of the row is renormalised."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.editing import edit_scores
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.interventions.target import Region, Target, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Knockout:
    """s := -inf from the chosen queries to the keys of a span, before the softmax.

    A row whose keys are all knocked out sees nothing: z = 0.
    """

    target: Target
    keys: SpanChoice
    narrow: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("knockout", self.target, keys=as_text(self.keys))

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """The keys."""
        return (self.keys,)

    def control(self, seed: int) -> "Knockout":
        """The same edges, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the edges inside the sweep, so that z and every statistic come from the edited row."""
        if not self.target.applies(call):
            return Edits()
        key_in = members(self.keys, call, call.key_index, "keys")
        if not bool(key_in.any()):
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
