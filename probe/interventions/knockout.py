"""Knock-out: some queries can no longer see some keys, and the rest of the row is renormalised."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from probe_kernels.types import BlockEdit, Edits
from torch import Tensor

from probe.interventions.span import SpanChoice, checked, members
from probe.interventions.target import Target
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Knockout:
    """s := -inf from the queries of one span to the keys of another, before the softmax.

    A row whose keys are all knocked out sees nothing: z = 0.
    """

    target: Target
    queries: SpanChoice
    keys: SpanChoice

    @property
    def name(self) -> str:
        """How reports name it."""
        spans = f"queries={_text(self.queries)},keys={_text(self.keys)}"
        return f"knockout:{spans},{self.target}".rstrip(",")

    def control(self, seed: int) -> "Knockout":
        """The same edges, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the edges inside the sweep, so that z and every statistic come from the edited row."""
        if not self.target.applies(call):
            return Edits()
        query_in = members(self.queries, call, call.query_index, "queries")
        key_in = members(self.keys, call, call.key_index, "keys")
        if not bool(query_in.any()) or not bool(key_in.any()):
            return Edits()
        return Edits(scores=(_hide(self.target.head_mask(call), query_in, key_in),))


def _hide(heads: Tensor, query_in: Tensor, key_in: Tensor) -> BlockEdit:
    def edit(block: Tensor, rows: slice, keys: slice) -> Tensor:
        hidden = query_in[:, None, rows, None] & key_in[:, None, None, keys] & heads[None, :, None, None]
        return block.masked_fill(hidden, float("-inf"))

    return edit


def _text(span: SpanChoice) -> str:
    return span if isinstance(span, str) else f"{span[0]}..{span[1]}"


def knockout(
    queries: SpanChoice,
    keys: SpanChoice,
    heads: Iterable[str | HeadId] | None = None,
    *,
    layers: Iterable[int] | None = None,
    tower: str | None = None,
    phase: str = "both",
) -> Knockout:
    """Forbid attention from a span's queries to another span's keys, and renormalise.

    Attention knockout of Geva et al. 2023, arXiv:2304.14767.

    Args:
        queries: A span's name, ``"all"``, or ``(start, stop)`` in real tokens.
        keys: The keys to hide, likewise.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        layers: Restricts to these layers.
        tower: Restricts to one tower.
        phase: ``prefill``, ``decode`` or ``both``.

    Raises:
        UsageError: a span, head, layer or phase that cannot be one.
    """
    return Knockout(
        Target.of(heads, layers, tower, phase), checked(queries, "queries"), checked(keys, "keys")
    )
