"""Which tokens of a prompt an intervention means: a named span, or real-token numbers."""

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.errors import InputError, UnknownNameError, UsageError
from probe.seam.call import AttentionCall

SpanChoice = str | tuple[int, int]


def checked(span: SpanChoice, what: str) -> SpanChoice:
    """The span as given; raises `UsageError` unless a name or ``(start, stop)``, 0 <= start < stop."""
    if isinstance(span, str) and span:
        return span
    if (
        isinstance(span, tuple)
        and len(span) == 2
        and all(isinstance(x, int) for x in span)
        and 0 <= span[0] < span[1]
    ):
        return span
    raise UsageError(
        f"{what}={span!r} was asked; a span is a name (needle, bos, all, …) or (start, stop) in tokens"
    )


def as_text(span: SpanChoice) -> str:
    """A span as specs write it: its name, or ``start..stop``."""
    return span if isinstance(span, str) else f"{span[0]}..{span[1]}"


def members(
    span: SpanChoice, call: AttentionCall, index: Tensor, side: str
) -> Bool[Tensor, "batch position"]:
    """True where a query or key (by its real-token `index`, -1 = padding) belongs to the span.

    Tokens beyond the announced prompt (generated ones) belong to the span ``response`` and to no other. On the side of
    the queries ``last`` is every row that predicts the next token: the prompt's last, and every generated one.

    Raises:
        InputError: no spans are known for a prompt of the batch.
        UnknownNameError: the prompt has no span of this name.
    """
    if isinstance(span, tuple):
        return (index >= span[0]) & (index < span[1])
    if span == "all":
        return index >= 0
    spans = call.batch.spans
    if len(spans) != index.shape[0]:
        if span == "last" and side == "queries":
            return (index >= 0) & (index == index.amax(1, keepdim=True))
        raise InputError(
            f"{side}={span!r} was asked; the prompts of this forward carry no spans: "
            "announce Prompt objects first (prompts=[...]), or give (start, stop) in real tokens"
        )
    rows = zip(spans, index, call.batch.prompts, strict=True)
    beyond = span == "response" or (span == "last" and side == "queries")
    return torch.stack([_one(span, known, places, prompt, beyond) for known, places, prompt in rows])


def _one(
    span: str, known: dict[str, Tensor], index: Tensor, prompt: int, beyond: bool
) -> Bool[Tensor, "position"]:
    if span not in known:
        raise UnknownNameError.of(f"span of prompt {prompt}", span, known)
    flags = known[span].to(device=index.device, dtype=torch.bool)
    padded = torch.cat([flags, torch.full_like(flags[:1], beyond)])
    return padded[index.clamp(0, len(flags))] & (index >= 0)
