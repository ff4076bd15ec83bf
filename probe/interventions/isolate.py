"""An isolated span: its tokens see each other only over a short distance."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_scores
from probe.interventions.own_axis import refuse_cross
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId


@dataclass(frozen=True)
class Isolate:
    """s := -inf from a span's token to the span's other tokens unless they are one of the last `window` up to itself.

    Distance is counted in real tokens of the prompt, the token itself included: ``window=1`` leaves it itself alone.
    Keys outside the span stay visible to the span, and every other token sees the span as before. Attention inside
    the span is cut forwards too in bidirectional layers. After the local attention of context tokens in Star
    Attention (arXiv:2411.17116) and parallel context windows (arXiv:2212.10947), within one prompt.
    """

    target: Target
    span: SpanChoice
    window: int
    narrow: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("isolate", self.target, span=as_text(self.span), window=self.window)

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """Its tokens."""
        return (self.span,)

    def control(self, seed: int) -> "Isolate":
        """The same edges, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `InterventionError` for cross-attention, where queries and keys are different sequences."""
        self.target.require(places, heads)
        refuse_cross(self.name, self.target, places)

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the far keys inside the span."""
        if not self.target.applies(call):
            return Edits()
        query, key = call.query_index, call.key_index
        query_in = members(self.span, call, query, "queries")
        key_in = members(self.span, call, key, "keys")
        if not bool(query_in.any()) or not bool(key_in.any()):
            return Edits()

        def cut(scores: Tensor, rows: slice, keys: slice) -> Tensor:
            gap = query[:, rows, None] - key[:, None, keys]
            inside = query_in[:, rows, None] & key_in[:, None, keys]
            far = inside & ((gap < 0) | (gap >= self.window))
            return scores.masked_fill(far[:, None], float("-inf"))

        return edit_scores(self.target, call, cut)


def isolate(
    span: SpanChoice, window: int, heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]
) -> Isolate:
    """Cut attention inside a span to its last `window` tokens; what lies outside is seen, and sees, as before.

    Args:
        span: The tokens to isolate: a span's name, or ``(start, stop)`` in real tokens.
        window: How many tokens, itself included, a token of the span sees of it; 1 or more.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a window below 1; a span, head, layer or phase that cannot be one.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise UsageError(f"isolate with window={window!r} was asked; window is a number of tokens, 1 or more")
    return Isolate(Target.of(heads, where), checked(span, "span"), window)
