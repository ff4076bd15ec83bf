"""Boosted keys: scores of a span are raised in proportion to their size."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import torch
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_scores
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Boost:
    """s := s + a·|s| at the keys of a span, before the softmax.

    s is the score as it enters the softmax: after scale, softcap and bias. Negative scores are raised as well, for
    a > 0. Paper: PAINT (arXiv:2501.12206), which boosts every head of layers 2 and later at the last query.
    """

    target: Target
    span: SpanChoice
    a: float
    narrow: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """How reports name it; `queries` is always said, since its default is not ``all``."""
        rest = replace(self.target, queries="all")
        return name_of("boost", rest, queries=as_text(self.target.queries), span=as_text(self.span), a=self.a)

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """Its tokens."""
        return (self.span,)

    def control(self, seed: int) -> "Boost":
        """The same boost, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Raise the scores of the span; hidden keys stay hidden."""
        if not self.target.applies(call):
            return Edits()
        key_in = members(self.span, call, call.key_index, "keys")
        if not bool(key_in.any()):
            return Edits()

        def raised(scores: Tensor, _rows: slice, keys: slice) -> Tensor:
            chosen = key_in[:, None, None, keys] & (scores != float("-inf"))
            return torch.where(chosen, scores + self.a * scores.masked_fill(~chosen, 0.0).abs(), scores)

        return edit_scores(self.target, call, raised)


def boost(
    span: SpanChoice, a: float, heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]
) -> Boost:
    """Raise attention to a span's keys: s += a·|s| before the softmax, at the row that predicts the next token.

    PAINT (arXiv:2501.12206): there a = 0.7 on local and 0.3 on summary image tokens, from layer 2 on; name the layers
    to have it so, and ``queries="all"`` to boost at every row. Exact at decoding.

    Args:
        span: The keys: a span's name, or ``(start, stop)`` in real tokens.
        a: The strength, any finite number; negative lowers.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows (``last`` if left out) and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a that is not finite; a span, head, layer or phase that cannot be one.
    """
    if not (isinstance(a, int | float) and abs(a) < float("inf")):
        raise UsageError(f"boost with a={a!r} was asked; a must be a finite number")
    return Boost(Target.of(heads, {"queries": "last", **where}), checked(span, "span"), float(a))
