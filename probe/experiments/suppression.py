"""The suppression matrix: how much each sentence's predictions change when another sentence cannot be attended to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.experiments.forwards import spans_of
from probe.interventions import knockout
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.sentences import Sentence
from probe.readouts.evaluating import evaluating
from probe.readouts.logits import next_token_logits, parts, precise, rows_at_once
from probe.seam.session import Session

TEMPERATURE, TOP_P, MOST = 0.6, 0.9999, 100
MISSING = -1e9  # the logit of a token that a sparse distribution does not hold
FLOOR = 1e-9  # added to KL before the logarithm
ROWS = 128  # rows of logits at a time

Kl = Literal["sparse", "grouped"]


@dataclass(frozen=True)
class Sparse:
    """The likeliest tokens of some rows, up to a mass of `TOP_P` and at most `MOST` of them, by their logits.

    `token` is −1 and `logit` −inf where a row holds fewer; `total` is the logsumexp of the whole row. Logits are
    divided by `TEMPERATURE`.
    """

    token: Int[Tensor, "row kept"]
    logit: Float[Tensor, "row kept"]
    total: Float[Tensor, "row 1"]

    @classmethod
    def of(cls, logits: Float[Tensor, "row vocab"]) -> "Sparse":
        """Compress rows of logits."""
        total = (logits.double() / TEMPERATURE).logsumexp(-1, keepdim=True)
        top, token = logits.topk(min(MOST, logits.shape[-1]), dim=-1)
        scaled = top.double() / TEMPERATURE
        mass = (scaled - total).exp()
        dropped = mass.cumsum(-1) - mass >= TOP_P  # what stands before it is enough
        return cls(token.masked_fill(dropped, -1), scaled.masked_fill(dropped, -torch.inf), total)


def sparse_kl(base: Sparse, other: Sparse) -> Float[Tensor, "row"]:
    """KL(base ‖ other) at `TEMPERATURE` on the union of the tokens that either holds, in nats, 0 or more.

    Both are normalised over what they hold. A token that one does not hold has the logit `MISSING` there, as in the
    authors' code: a token of base that the other lost costs its probability times 1.7e9.
    """
    log_p = base.logit.log_softmax(-1)
    same = (base.token[:, :, None] == other.token[:, None]) & (base.token[:, :, None] >= 0)
    found = torch.where(same, other.logit[:, None], -torch.inf).amax(-1)
    found = found.masked_fill(torch.isneginf(found), MISSING / TEMPERATURE)
    log_q = found - other.logit.logsumexp(-1, keepdim=True)
    return _terms(log_p, log_q).sum(-1).clamp_min(0.0)


def grouped_kl(base: Sparse, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """KL at `TEMPERATURE` of whole distributions in which the tokens that base does not hold count as one, in nats.

    At most the KL of the whole distributions, and 0 where these are equal; no token is ever missing.
    """
    scaled = logits.double() / TEMPERATURE
    held = base.token >= 0
    log_p = base.logit - base.total
    log_q = scaled.gather(-1, base.token.clamp_min(0)) - scaled.logsumexp(-1, keepdim=True)
    rest_p, rest_q = (1.0 - one.exp().masked_fill(~held, 0.0).sum(-1, keepdim=True) for one in (log_p, log_q))
    rest = _terms(rest_p.clamp_min(1e-15).log(), rest_q.clamp_min(1e-15).log())
    return torch.cat([_terms(log_p, log_q), rest], -1).sum(-1).clamp_min(0.0)


def _terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p·(ln p − ln q), 0 where p is 0."""
    return torch.where(torch.isneginf(log_p), 0.0, log_p.exp() * (log_p - log_q))


def suppression(
    loaded: LoadedModel,
    prompt: Prompt,
    sentences: Sequence[Sentence],
    kl: Kl = "sparse",
    tell: Callable[[int], None] = lambda _: None,
) -> Float[np.ndarray, "sentence source"]:
    """C[a, b] = mean over the tokens of a of ln(KL(base ‖ b suppressed) + 1e-9), for b < a; NaN elsewhere.

    Suppressing a sentence hides its keys from every query of every layer and head, and renormalises. One forward more
    than there are sentences with a later one. At most 100 logits per token are kept of the base.

    Raises:
        UsageError: the model predicts no next token.
    """
    first, count = sentences[0].start, len(sentences)
    base: list[Sparse] = []
    _each_part(loaded, prompt, first, (), lambda _, logits: base.append(Sparse.of(logits)))
    effects = np.full((count, count), np.nan)
    for number, source in enumerate(sentences[:-1]):
        tell(number)
        found: list[Tensor] = []

        def compare(at: int, logits: Tensor, found: list[Tensor] = found) -> None:
            now = sparse_kl(base[at], Sparse.of(logits)) if kl == "sparse" else grouped_kl(base[at], logits)
            found.append((now + FLOOR).log().cpu())

        _each_part(loaded, prompt, first, (knockout("all", (source.start, source.stop)),), compare)
        changed = torch.cat(found).numpy()
        for later in range(number + 1, count):
            target = sentences[later]
            effects[later, number] = changed[target.start - first : target.stop - first].mean()
    return effects


def centred(effects: Float[np.ndarray, "sentence source"]) -> Float[np.ndarray, "sentence source"]:
    """Each row less its mean over the sources before it; NaN where there is no effect."""
    known = ~np.isnan(effects)
    mean = np.where(known, effects, 0.0).sum(-1) / np.maximum(known.sum(-1), 1)
    return np.asarray(effects - mean[:, None])


def _each_part(
    loaded: LoadedModel,
    prompt: Prompt,
    first: int,
    interventions: Sequence[object],
    take: Callable[[int, Float[Tensor, "row vocab"]], None],
) -> None:
    """One forward, its logits from token `first` on handed on a few rows at a time, numbered from 0."""
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    with (
        evaluating(loaded.model),
        torch.no_grad(),
        Session(loaded.model, (), interventions, mode="fused") as session,
    ):
        session.announce([spans_of(prompt)])
        logits = next_token_logits(loaded.model, {"input_ids": ids})
        for number, part in enumerate(parts((1, len(prompt) - first), min(rows_at_once(loaded.model), ROWS))):
            take(number, precise(logits.columns(slice(part.start + first, part.stop + first)))[0])
