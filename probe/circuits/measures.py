"""What is asked of the last position's logits: one number per pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.errors import UnknownNameError

Numbers = Float[Tensor, "*copy pair"]


@runtime_checkable
class Measure(Protocol):
    """One number per pair. `clean` are the logits of the clean run, which some measures compare with."""

    name: str
    unit: str

    def __call__(
        self, logits: Float[Tensor, "*copy pair vocab"], batch: Batch, clean: Float[Tensor, "pair vocab"]
    ) -> Numbers:
        """The numbers."""


def flags(batch: Batch, logits: Tensor, which: str) -> Bool[Tensor, "pair vocab"]:
    """The right, or the wrong answer tokens of every pair."""
    made = torch.zeros(len(batch), logits.shape[-1], dtype=torch.bool, device=logits.device)
    for row, pair in enumerate(batch.pairs):
        made[row, list(getattr(pair, which))] = True
    return made


def _mean(logits: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, logits, 0.0).sum(-1) / chosen.sum(-1)


@dataclass(frozen=True)
class LogitDifference:
    """Mean logit of the right tokens minus that of the wrong ones: linear in the logits, above 0 where right wins."""

    name: str = "logit_difference"
    unit: str = "logits"

    def __call__(self, logits: Tensor, batch: Batch, clean: Tensor) -> Tensor:
        """right - wrong."""
        return _mean(logits, flags(batch, logits, "right")) - _mean(logits, flags(batch, logits, "wrong"))


@dataclass(frozen=True)
class ProbabilityDifference:
    """Probability of all right tokens minus that of all wrong ones, -1 to 1 (Hanna et al. 2023, greater-than)."""

    name: str = "probability_difference"
    unit: str = "probability"

    def __call__(self, logits: Tensor, batch: Batch, clean: Tensor) -> Tensor:
        """Σ p(right) - Σ p(wrong)."""
        probs = logits.softmax(-1)
        sign = flags(batch, logits, "right").to(probs) - flags(batch, logits, "wrong").to(probs)
        return (probs * sign).sum(-1)


@dataclass(frozen=True)
class Accuracy:
    """1 where the likeliest right token is likelier than every wrong one, else 0. It has no gradient."""

    name: str = "accuracy"
    unit: str = "share"

    def __call__(self, logits: Tensor, batch: Batch, clean: Tensor) -> Tensor:
        """max right > max wrong."""
        low = torch.finfo(logits.dtype).min
        right = logits.masked_fill(~flags(batch, logits, "right"), low).amax(-1)
        return (right > logits.masked_fill(~flags(batch, logits, "wrong"), low).amax(-1)).to(logits.dtype)


@dataclass(frozen=True)
class Divergence:
    """KL(clean ‖ this run) over the vocabulary, in nats, 0 or more."""

    name: str = "kl"
    unit: str = "nats"

    def __call__(self, logits: Tensor, batch: Batch, clean: Tensor) -> Tensor:
        """Σ p_clean (ln p_clean - ln p)."""
        reference = clean.log_softmax(-1)
        return (reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


MEASURES: Mapping[str, Measure] = {
    one.name: one for one in (LogitDifference(), ProbabilityDifference(), Accuracy(), Divergence())
}


def measure_of(name: str) -> Measure:
    """The measure of a name; raises `UnknownNameError`."""
    if name not in MEASURES:
        raise UnknownNameError.of("measure", name, MEASURES)
    return MEASURES[name]
