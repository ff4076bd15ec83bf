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

    @property
    def name(self) -> str:
        """How it is asked for."""

    @property
    def unit(self) -> str:
        """What its numbers are in."""

    def __call__(
        self, logits: Float[Tensor, "*copy pair vocab"], batch: Batch, clean: Float[Tensor, "pair vocab"]
    ) -> Numbers:
        """The numbers, in float64."""


def flags(batch: Batch, logits: Tensor, which: str) -> Bool[Tensor, "pair vocab"]:
    """The right, or the wrong answer tokens of every pair."""
    made = torch.zeros(len(batch), logits.shape[-1], dtype=torch.bool, device=logits.device)
    for row, pair in enumerate(batch.pairs):
        made[row, list(getattr(pair, which))] = True
    return made


def answers(
    batch: Batch, logits: Float[Tensor, "*copy pair vocab"], which: str
) -> tuple[Float[Tensor, "*copy pair answer"], Bool[Tensor, "pair answer"]]:
    """The logits of every pair's right (or wrong) tokens as float64, and which entries are one: sets differ in size."""
    sets = [getattr(pair, which) for pair in batch.pairs]
    width = max(len(one) for one in sets)
    index = torch.tensor([[*one, *[one[0]] * (width - len(one))] for one in sets], device=logits.device)
    real = torch.tensor([[n < len(one) for n in range(width)] for one in sets], device=logits.device)
    return logits.gather(-1, index.expand(*logits.shape[:-1], width)).double(), real


def _mean(logits: Tensor, batch: Batch, which: str) -> Tensor:
    value, real = answers(batch, logits, which)
    return (value * real).sum(-1) / real.sum(-1)


@dataclass(frozen=True)
class LogitDifference:
    """Mean logit of the right tokens minus that of the wrong ones: linear in the logits, above 0 where right wins."""

    name: str = "logit_difference"
    unit: str = "logits"

    def __call__(
        self, logits: Float[Tensor, "*copy pair vocab"], batch: Batch, clean: Float[Tensor, "pair vocab"]
    ) -> Numbers:
        """Right - wrong."""
        return _mean(logits, batch, "right") - _mean(logits, batch, "wrong")


@dataclass(frozen=True)
class ProbabilityDifference:
    """Probability of all right tokens minus that of all wrong ones, -1 to 1 (Hanna et al. 2023, greater-than)."""

    name: str = "probability_difference"
    unit: str = "probability"

    def __call__(
        self, logits: Float[Tensor, "*copy pair vocab"], batch: Batch, clean: Float[Tensor, "pair vocab"]
    ) -> Numbers:
        """Σ p(right) - Σ p(wrong)."""
        total = logits.double().logsumexp(-1, keepdim=True)
        (right, are_right), (wrong, are_wrong) = (answers(batch, logits, one) for one in ("right", "wrong"))
        return ((right - total).exp() * are_right).sum(-1) - ((wrong - total).exp() * are_wrong).sum(-1)


@dataclass(frozen=True)
class Accuracy:
    """1 where the likeliest right token is likelier than every wrong one, else 0. It has no gradient."""

    name: str = "accuracy"
    unit: str = "share"

    def __call__(
        self, logits: Float[Tensor, "*copy pair vocab"], batch: Batch, clean: Float[Tensor, "pair vocab"]
    ) -> Numbers:
        """Max right > max wrong."""
        right, wrong = (
            value.masked_fill(~real, float("-inf")).amax(-1)
            for value, real in (answers(batch, logits, one) for one in ("right", "wrong"))
        )
        return (right > wrong).double()


@dataclass(frozen=True)
class Divergence:
    """KL(clean ‖ this run) over the vocabulary, in nats, 0 or more."""

    name: str = "kl"
    unit: str = "nats"

    def __call__(
        self, logits: Float[Tensor, "*copy pair vocab"], batch: Batch, clean: Float[Tensor, "pair vocab"]
    ) -> Numbers:
        """Σ p_clean (ln p_clean - ln p)."""
        reference = clean.double().log_softmax(-1)
        return (reference.exp() * (reference - logits.double().log_softmax(-1))).sum(-1)


MEASURES: Mapping[str, Measure] = {
    one.name: one for one in (LogitDifference(), ProbabilityDifference(), Accuracy(), Divergence())
}


def measure_of(name: str) -> Measure:
    """The measure of a name; raises `UnknownNameError`."""
    if name not in MEASURES:
        raise UnknownNameError.of("measure", name, MEASURES)
    return MEASURES[name]
