"""The measures of one run, prompt by prompt, and their means over prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analysis.ablation.comparing import TokenScores
from probe.analysis.continuation import Continuation

# Measure -> what a prompt weighs in the mean, so that every position counts alike.
WEIGHTS = {
    "loss": "predicted",
    "kl_to_base": "positions",
    "top_changes": "positions",
    "answer_loss": "answer_tokens",
}
UNITS = {"loss": "nats", "kl_to_base": "nats", "top_changes": "share", "answer_loss": "nats"}


@dataclass(frozen=True)
class PromptScores:
    """Means over the positions of one prompt, and what the model wrote after it.

    `answer_loss` is None where the prompt has no answer; `continuation` where none was asked or there was no room.
    """

    loss: float
    kl_to_base: float
    top_changes: float
    answer_loss: float | None
    continuation: Continuation | None

    @classmethod
    def of(
        cls, scores: TokenScores, answer: Sequence[float] | None, continuation: Continuation | None
    ) -> "PromptScores":
        """The means of what was measured at each token."""
        return cls(
            loss=float(scores.loss.nanmean()),
            kl_to_base=float(scores.kl_to_base.mean()),
            top_changes=float(scores.top_changes.mean()),
            answer_loss=None if answer is None else float(np.mean(answer)),
            continuation=continuation,
        )


@dataclass(frozen=True)
class RunScores:
    """One run over all prompts: the base, the edited model, or one control."""

    prompts: tuple[PromptScores, ...]
    heads: tuple[str, ...] = ()  # heads that a control edits
    seed: int | None = None  # that a control was drawn with

    def values(self, measure: str) -> np.ndarray:
        """One value per prompt, NaN where it is undefined."""
        found = (getattr(one, measure) for one in self.prompts)
        return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def pooled(values: np.ndarray, weights: np.ndarray) -> float:
    """The mean over prompts, weighed; NaN where no value is defined."""
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")


def mean_run(runs: Sequence[RunScores]) -> Mapping[str, np.ndarray]:
    """Values per prompt of several runs (controls of several seeds), the mean of them."""
    return {measure: np.mean([run.values(measure) for run in runs], axis=0) for measure in WEIGHTS}
