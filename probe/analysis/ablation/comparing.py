"""What edited logits do to a prompt's tokens, beside those of the base: loss, divergence, changes of the top token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.readouts.logits import Logits, parts, precise
from probe.readouts.losses import surprise


@dataclass(frozen=True)
class TokenScores:
    """Values at every token of one prompt in one run, float64.

    Attributes:
        loss: −ln p of the token after those before it, in nats; NaN at the first, which nothing predicts.
        kl_to_base: KL(base || run) of the next-token distributions at each position, in nats, 0 or more.
        top_changes: 1 where the most probable next token is another than the base's, else 0.
    """

    loss: Float[Tensor, "token"]
    kl_to_base: Float[Tensor, "token"]
    top_changes: Float[Tensor, "token"]


def compare(runs: Sequence[Logits], tokens: Int[Tensor, "1 token"], rows: int) -> list[TokenScores]:
    """Scores of each run; the first is the base. Logits of a few positions at a time, the base's once for all."""
    shape = tuple(tokens.shape)
    losses = [torch.full(shape, torch.nan, dtype=torch.float64) for _ in runs]
    divergence = [torch.zeros(shape, dtype=torch.float64) for _ in runs]
    changed = [torch.zeros(shape, dtype=torch.float64) for _ in runs]
    for part in parts((shape[0], shape[1]), rows):
        base: Tensor | None = None
        for number, run in enumerate(runs):
            mine = precise(run.columns(part)).log_softmax(-1)
            surprise(mine, tokens, part, losses[number])
            if base is None:
                base = mine
                continue
            divergence[number][:, part] = divergence_of(base, mine).cpu()
            changed[number][:, part] = (base.argmax(-1) != mine.argmax(-1)).double().cpu()
    found = zip(losses, divergence, changed, strict=True)
    return [TokenScores(loss[0], kl[0], top[0]) for loss, kl, top in found]


def divergence_of(
    base: Float[Tensor, "*rows vocab"], other: Float[Tensor, "*rows vocab"]
) -> Float[Tensor, "*rows"]:
    """KL(base || other) = Σ p (ln p − ln q), in nats, from log-probabilities; a token of no mass in base counts 0."""
    terms = base.exp() * (base - other)
    # Where p is 0, ln p − ln q is infinite or undefined, but its limit is 0; rounding may reach below 0.
    return terms.masked_fill(base == -torch.inf, 0.0).sum(-1, dtype=torch.float64).clamp_min(0.0)
