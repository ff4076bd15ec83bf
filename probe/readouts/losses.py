"""The loss of every token of a prompt: cross-entropy in nats, from the model's own logits, chunk by chunk."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.readouts.logits import (
    ROWS,
    Forward,
    Logits,
    next_token_logits,
    parts,
    precise,
    rows_at_once,
)

Losses = Float[Tensor, "batch token"]


def token_losses(
    model: nn.Module, inputs: Mapping[str, Any], forward: Forward | None = None, *, rows: int | None = None
) -> Losses:
    """−ln p(token | the tokens before it) for every token of a batch, in nats, float64 on the CPU.

    Undefined (NaN) at padding and at the first token of every sequence, which nothing predicts. Runs the model once,
    in whatever session is open, and makes logits for a few positions at a time.

    Args:
        model: A decoder with a language-modelling head, in evaluation mode.
        inputs: ``input_ids``, ``attention_mask`` where the batch is padded (on either side), and what else it takes.
        forward: How to run the model, see `next_token_logits`.
        rows: Most rows of logits at a time; None: 512, fewer for a large vocabulary.

    Raises:
        UsageError: the model predicts no next token.
        BudgetError: only whole logits could be had, and they would not fit.
    """
    logits = next_token_logits(model, inputs, forward)
    at_once = rows_at_once(model) if rows is None else rows
    return losses_of(logits, inputs["input_ids"], real_tokens(inputs), rows=at_once)


def losses_of(
    logits: Logits,
    tokens: Int[Tensor, "batch token"],
    real: Bool[Tensor, "batch token"],
    *,
    rows: int = ROWS,
) -> Losses:
    """The losses that logits give to the tokens that came; NaN where nothing predicts a token (`predicted`)."""
    found = torch.full(tokens.shape, torch.nan, dtype=torch.float64)
    for part in parts(logits.size, rows):
        surprise(precise(logits.columns(part)).log_softmax(-1), tokens, part, found)
    return found.masked_fill(~predicted(real), torch.nan)


def surprise(
    log_probs: Float[Tensor, "batch column vocab"],
    tokens: Int[Tensor, "batch token"],
    part: slice,
    into: Losses,
) -> None:
    """Write −log p of the tokens after some columns to where these tokens stand."""
    follows, n_rows = _following(tokens, part)
    chosen = log_probs[:, :n_rows].gather(-1, follows[..., None].to(log_probs.device))[..., 0]
    into[:, part.start + 1 : part.start + 1 + n_rows] = -chosen.to("cpu", torch.float64)


def _following(tokens: Int[Tensor, "batch token"], part: slice) -> tuple[Int[Tensor, "batch column"], int]:
    """The token after each of some columns, and how many of these columns have one."""
    follows = tokens[:, part.start + 1 : part.stop + 1]
    return follows, int(follows.shape[1])


def predicted(real: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
    """The tokens that have a loss: real ones that follow a real one."""
    before = torch.zeros_like(real)
    before[:, 1:] = real[:, :-1]
    return (real & before).cpu()


def real_tokens(inputs: Mapping[str, Any]) -> Bool[Tensor, "batch token"]:
    """The tokens that are no padding, as the inputs' ``attention_mask`` says; all where there is none."""
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == inputs["input_ids"].shape:
        return mask.bool()
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool)
