"""Recalled loss: how well a model predicts the tokens that its context has already told it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from probe.errors import InputError
from probe.experiments.base import Ask
from probe.experiments.forwards import losses
from probe.experiments.model_answer import (
    bounds,
    by_prompt,
    cannot_predict,
    model_answer,
    no_model_answer,
    pooled,
)
from probe.experiments.repeats import recalled
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.prompts import Prompt
from probe.report.answer import Answer
from probe.report.intervals import RESAMPLES

SLICES = ("recalled", "other", "all")


@dataclass(frozen=True)
class _Read:
    """The losses of one prompt's predicted tokens, and which of them its context had told."""

    prompt: Prompt
    loss: Float[np.ndarray, "token"]  # NaN at the first
    told: Bool[np.ndarray, "token"]

    def slices(self) -> list[tuple[float, int]]:
        """Mean loss and number of tokens, per slice."""
        known = np.isfinite(self.loss)
        parts = [self.loss[known & flags] for flags in (self.told, ~self.told, np.ones_like(self.told))]
        return [(float(part.mean()) if len(part) else np.nan, len(part)) for part in parts]


class RecalledLoss:
    """Mean loss on recalled tokens, in nats per token, 0 or more: those that complete an n-gram seen before.

    A token is recalled where the n-gram that it ends occurred earlier in the same prompt (its first occurrence does not
    count). Loss is −ln p of the token given those before it. Tokens of all prompts are pooled.

    Extra: ``loss`` (slice) on recalled tokens, on the others and on all; ``tokens`` (slice), how many; ``share``, of
    predicted tokens that are recalled; ``loss_interval`` (bound, slice) over prompts; ``loss_by_prompt`` and
    ``tokens_by_prompt`` (prompt, slice); ``token_loss`` (token) of all prompts one after another, with coordinates
    ``source`` (number of the prompt), ``place`` and ``recalled``. Interventions of the call act in every forward, and
    `added_share` tells what share of the loss they add falls on recalled tokens.

    Deviation: Arora et al. count only bigrams that are rare in the training data, which is not at hand; here every
    repeated n-gram counts. Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023
    (arXiv:2312.04927).

    Args:
        ngram: tokens of the n-gram, 2 or more.
        tokens: the shipped text is cut to so many tokens; prompts of yours are taken as they are.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="recalled_loss",
        summary="Mean loss on tokens that complete an n-gram of their context, in nats per token, 0 or more",
        unit="nats per token",
        better="low",
        paper="Arora et al. 2023",
        bibtex="""@misc{arora2023zoology,
  title={Zoology: Measuring and Improving Recall in Efficient Language Models},
  author={Arora, Simran and Eyuboglu, Sabri and Timalsina, Aman and Johnson, Isys and others},
  year={2023},
  eprint={2312.04927},
  archivePrefix={arXiv}
}""",
        causal_only=True,
    )

    def __init__(self, ngram: int = 2, tokens: int = 1024) -> None:
        self.spec = self.info.name
        at_least(self.spec, "ngram", ngram, 2)
        at_least(self.spec, "tokens", tokens, 3)
        self.ngram, self.tokens = ngram, tokens

    def run(self, ask: Ask) -> list[Answer]:
        """One forward per prompt; NaN with a note where the model predicts no token, or no n-gram repeats."""
        reason = cannot_predict(ask.model)
        if reason:
            return [no_model_answer(self.spec, self.info, reason)]
        prompts = ask.texts(self.tokens)
        read = []
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            loss = losses(ask.model, prompt).numpy()
            read.append(_Read(prompt, loss, recalled(prompt.tokens, self.ngram)))
        ask.tell(len(prompts), len(prompts), self.spec)
        return [self._answer(read, ask.seed)]

    def _answer(self, read: Sequence[_Read], seed: int) -> Answer:
        found = np.array([one.slices() for one in read])  # [prompt, slice, (loss, tokens)]
        loss, tokens = found[..., 0], found[..., 1]
        count = tokens.sum(0)
        if not count[0]:
            reason = f"no n-gram of {self.ngram} tokens occurs twice in a prompt"
            return no_model_answer(self.spec, self.info, reason)
        names = [one.prompt.id for one in read]
        first = by_prompt(names, loss[:, 0], tokens[:, 0])
        slices = {"slice": list(SLICES)}
        each = {"prompt": first.coords["prompt"].values, **slices}
        interval = np.stack([bounds(loss[:, s], tokens[:, s], seed) for s in range(len(SLICES))], axis=1)
        mean = pooled(loss, tokens)
        extra = {
            "loss": xr.DataArray(mean, slices, ("slice",)),
            "tokens": xr.DataArray(count.astype(np.int64), slices, ("slice",)),
            "share": xr.DataArray(count[0] / count[2]),
            "loss_interval": xr.DataArray(interval, {"bound": ["low", "high"], **slices}, ("bound", "slice")),
            "loss_by_prompt": xr.DataArray(loss, each, ("prompt", "slice")),
            "tokens_by_prompt": xr.DataArray(tokens.astype(np.int64), each, ("prompt", "slice")),
            "token_loss": _token_loss(read),
        }
        line = (
            f"{count[0] / count[2]:.1%} of {int(count[2])} predicted tokens are recalled ({self.ngram}-grams); loss "
            f"{mean[0]:.3f} on them, {mean[1]:.3f} on the others, {mean[2]:.3f} on all"
        )
        return model_answer(self.spec, self.info, first, extra, [line], seed)


def added_share(base: Answer, edited: Answer, seed: int = 0) -> xr.DataArray:
    """What share of the loss that an edit adds falls on recalled tokens, axes (bound: value, low, high).

    ``Σ over recalled tokens of (edited − base) / Σ over all``, with a bootstrap interval over prompts. Held against the
    answer's ``share``: where the edit costs all tokens alike, both are the same. NaN where the edit adds no loss.

    Raises:
        InputError: the answers are not of `recalled_loss`, or not over the same tokens.
    """
    for one in (base, edited):
        if one.name != RecalledLoss.info.name or "tokens_by_prompt" not in one.extra:
            raise InputError(
                f"a share of added loss was asked; {one.spec!r} has no slices: give two answers of recalled_loss"
            )
    tokens = base.extra["tokens_by_prompt"]
    if not tokens.identical(edited.extra["tokens_by_prompt"]):
        raise InputError(
            "a share of added loss was asked; the answers are over different prompts or n-grams: run both on the same"
        )
    change = edited.extra["loss_by_prompt"] - base.extra["loss_by_prompt"]
    added = np.nan_to_num(np.asarray(change.values)) * np.asarray(tokens.values, np.float64)
    value = _ratio(added.sum(0))
    low, high = np.nan, np.nan
    if len(added) > 1 and np.isfinite(value):
        draws = np.random.default_rng(seed).integers(0, len(added), (RESAMPLES, len(added)))
        low, high = np.nanquantile([_ratio(one) for one in added[draws].sum(1)], [0.025, 0.975])
    return xr.DataArray([value, low, high], {"bound": ["value", "low", "high"]}, ("bound",))


def _ratio(added: np.ndarray) -> float:
    return float(added[0] / added[2]) if added[2] > 0 else np.nan


def _token_loss(read: Sequence[_Read]) -> xr.DataArray:
    lengths = [len(one.loss) for one in read]
    coords = {
        "source": ("token", np.repeat(np.arange(len(read)), lengths)),
        "place": ("token", np.concatenate([np.arange(n) for n in lengths])),
        "recalled": ("token", np.concatenate([one.told for one in read])),
    }
    return xr.DataArray(np.concatenate([one.loss for one in read]), coords, ("token",))
