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


def members(
    span: SpanChoice, call: AttentionCall, index: Tensor, side: str
) -> Bool[Tensor, "batch position"]:
    """True where a query or key (by its real-token `index`, -1 = padding) belongs to the span.

    Tokens beyond the announced prompt (generated ones) belong to the span ``response`` and to no other.

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
        raise InputError(
            f"a knockout of {side}={span!r} was asked; the prompts of this forward carry no spans: "
            "announce Prompt objects first, or give (start, stop) in real tokens"
        )
    rows = zip(spans, index, call.batch.prompts, strict=True)
    return torch.stack([_one(span, known, places, prompt) for known, places, prompt in rows])


def _one(span: str, known: dict[str, Tensor], index: Tensor, prompt: int) -> Tensor:
    if span not in known:
        raise UnknownNameError.of(f"span of prompt {prompt}", span, known)
    flags = known[span].to(device=index.device, dtype=torch.bool)
    beyond = torch.full_like(flags[:1], span == "response")
    padded = torch.cat([flags, beyond])
    return padded[index.clamp(0, len(flags))] & (index >= 0)
