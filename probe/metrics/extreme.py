"""The extreme token of a prompt: its first token, or the first of a named span; and its value against all others."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import UnknownNameError
from probe.metrics.base import Cell
from probe.seam.call import Batch

Over = Literal["mean", "max"]
UNKNOWN_SPANS = "the spans of these sequences are not known here (see announce)"


def extreme_index(batch: Batch, row: int, span: str) -> int:
    """Index, among a prompt's real tokens, of the first token of `span` (of the prompt, where `span` is empty).

    -1 where the span holds no token. Raises `UnknownNameError` where the prompt has no such span.
    """
    if not span:
        return 0
    named = batch.spans[row]
    if span not in named:
        problem = UnknownNameError.of("span", span, named)
        raise UnknownNameError(f"prompt {batch.prompts[row]}: {problem}")
    inside = named[span].bool().nonzero()
    return int(inside[0]) if inside.numel() else -1


def against_others(
    tokens: Float[Tensor, "head token"], cell: Cell, over: Over
) -> tuple[Float[Tensor, "head"], Float[Tensor, "head"]]:
    """The extreme token's value divided by the mean (or largest) of the other tokens', and weight 1.

    Weight 0 where the cell's ``at`` is -1 or beyond the tokens, where there are no others, or where theirs is 0.
    """
    at, n = int(cell["at"]), tokens.shape[1]
    if not 0 <= at < n or n < 2:
        nothing = tokens.new_zeros(tokens.shape[0])
        return nothing, nothing
    others = torch.cat([tokens[:, :at], tokens[:, at + 1 :]], dim=1)
    others = others.amax(1) if over == "max" else others.nanmean(1)
    known = others > 0
    return torch.where(known, tokens[:, at] / others.clamp_min(1e-300), 0.0), known.to(torch.float64)
