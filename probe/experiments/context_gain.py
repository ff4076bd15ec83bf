"""Context gain: how much better the same tokens are predicted with a long context than with a short one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.forwards import losses
from probe.experiments.model_answer import bounds, by_prompt, cannot_predict, model_answer, no_model_answer
from probe.experiments.repeats import recalled
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.models import LoadedModel
from probe.prompts import Prompt, default_text
from probe.report.answer import Answer

SLICES = ("far", "near", "other")


@dataclass(frozen=True)
class _Window:
    """A stretch of a prompt: `long` tokens of context, and the tokens whose loss is compared."""

    name: str
    prompt: Prompt
    start: int


@dataclass(frozen=True)
class _Gain:
    """Losses of the same tokens with either context, and which of them these contexts had told."""

    name: str
    long: Float[np.ndarray, "token"]
    short: Float[np.ndarray, "token"]
    by_long: Bool[np.ndarray, "token"]
    by_short: Bool[np.ndarray, "token"]


class ContextGain:
    """Mean loss with a short context less that with a long one, in nats per token; above 0 where context helps.

    A window of a prompt is ``long + last`` tokens. Its last `last` tokens are predicted twice: after the `long` tokens
    before them, and after the nearest `short` of these alone. A prompt that starts with a beginning-of-sequence token
    has it before either context, beyond these counts. Windows follow one another without overlap, at most `windows` a
    prompt; they take the place of prompts in the interval.

    Extra: ``loss`` (context: long, short); ``gain`` (window, token), per token, with the coordinate ``slice``: *far*
    tokens complete an n-gram that stands in the long context alone, *near* ones in the short context too, *other* ones
    in neither. ``slice_gain`` (bound: value, low, high; slice) is the mean gain on each, ``slice_share`` (slice) the
    share of tokens, ``share_of_gain`` (slice) the share of the whole gain, NaN where there is none.

    Khandelwal et al., "Sharp Nearby, Fuzzy Far Away: How Neural Language Models Use Context", ACL 2018.

    Args:
        long: tokens of the long context.
        short: tokens of the short one, fewer.
        last: tokens whose losses are compared.
        windows: most windows of one prompt.
        ngram: of the tokens that count as recalled, 2 or more.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="context_gain",
        summary="Loss of the same tokens with a short context less that with a long one, in nats per token",
        unit="nats per token",
        better="high",
        paper="Khandelwal et al. 2018",
        bibtex="""@inproceedings{khandelwal2018sharp,
  title={Sharp Nearby, Fuzzy Far Away: How Neural Language Models Use Context},
  author={Khandelwal, Urvashi and He, He and Qi, Peng and Jurafsky, Dan},
  booktitle={Proceedings of the 56th Annual Meeting of the Association for Computational Linguistics},
  year={2018}
}""",
        causal_only=True,
        slow=True,
    )

    def __init__(
        self, long: int = 512, short: int = 64, last: int = 64, windows: int = 4, ngram: int = 2
    ) -> None:
        self.spec = self.info.name
        for name, value, low in (
            ("short", short, 1),
            ("last", last, 1),
            ("windows", windows, 1),
            ("ngram", ngram, 2),
        ):
            at_least(self.spec, name, value, low)
        if short >= long:
            raise UsageError(
                f"context_gain: short was {short}, long {long}; the short context must be shorter"
            )
        self.long, self.short, self.last = long, short, last
        self.windows, self.ngram = windows, ngram

    def run(self, ask: Ask) -> list[Answer]:
        """Two forwards per window; NaN with a note where the model predicts no token, or no prompt is long enough."""
        reason = cannot_predict(ask.model)
        if reason:
            return [no_model_answer(self.spec, self.info, reason)]
        limit, need = ask.model.max_positions, self.long + self.last + 1
        if limit is not None and need > limit:
            return [
                no_model_answer(
                    self.spec, self.info, f"{need} tokens do not fit the model's {limit} positions"
                )
            ]
        windows, notes = self._windows(ask)
        if not windows:
            return [no_model_answer(self.spec, self.info, "; ".join(notes))]
        found = []
        for number, window in enumerate(windows):
            ask.tell(number, len(windows), f"{self.spec}: {window.name}")
            found.append(self._measure(ask.model, window))
        ask.tell(len(windows), len(windows), self.spec)
        return [self._answer(found, notes, ask.seed)]

    def _windows(self, ask: Ask) -> tuple[list[_Window], list[str]]:
        prompts, size, windows = self._texts(ask), self.long + self.last, []
        short = 0
        for prompt in prompts:
            first = int(prompt.bos)
            count = min(self.windows, (len(prompt) - first) // size)
            short += count == 0
            windows += [_Window(f"{prompt.id}:{n}", prompt, first + n * size) for n in range(count)]
        line = f"{short} of {len(prompts)} prompts have fewer than {size} tokens: left out"
        return windows, [line] if short else []

    def _texts(self, ask: Ask) -> Sequence[Prompt]:
        """The user's prompts, or the shipped text as long as the windows need: it may be longer than the model."""
        if ask.prompts or ask.model.tokenizer is None:
            return ask.texts()
        whole = Prompt.of(default_text(), ask.model.tokenizer, id="text")
        return (whole.truncate(self.windows * (self.long + self.last) + 1),)

    def _measure(self, loaded: LoadedModel, window: _Window) -> _Gain:
        stop = window.start + self.long + self.last
        loss, told = [], []
        for context in (self.long, self.short):
            cut = _cut(window.prompt, stop - self.last - context, stop)
            loss.append(losses(loaded, cut).numpy()[-self.last :])
            told.append(recalled(cut.tokens, self.ngram)[-self.last :])
        return _Gain(window.name, *loss, *told)

    def _answer(self, found: Sequence[_Gain], notes: Sequence[str], seed: int) -> Answer:
        gain = np.stack([one.short - one.long for one in found])
        long, short = (np.stack([getattr(one, name) for one in found]) for name in ("by_long", "by_short"))
        kind = np.select([long & ~short, short], SLICES[:2], SLICES[2])
        names = [one.name for one in found]
        values = by_prompt(names, gain.mean(1), np.full(len(gain), float(self.last)))
        loss = [np.mean([one.long for one in found]), np.mean([one.short for one in found])]
        share = [float((kind == name).mean()) for name in SLICES]
        of_gain = [
            float(gain[kind == name].sum() / gain.sum()) if gain.sum() > 0 else np.nan for name in SLICES
        ]
        each = {"slice": list(SLICES)}
        by_slice = np.stack([_part(gain, kind == name, seed) for name in SLICES], axis=1)
        extra = {
            "loss": xr.DataArray(loss, {"context": ["long", "short"]}, ("context",)),
            "gain": xr.DataArray(
                gain, {"window": names, "slice": (("window", "token"), kind)}, ("window", "token")
            ),
            "slice_gain": xr.DataArray(
                by_slice, {"bound": ["value", "low", "high"], **each}, ("bound", "slice")
            ),
            "slice_share": xr.DataArray(share, each, ("slice",)),
            "share_of_gain": xr.DataArray(of_gain, each, ("slice",)),
        }
        line = (
            f"loss {loss[1]:.3f} after {self.short} tokens, {loss[0]:.3f} after {self.long}; {share[0]:.1%} of "
            f"{kind.size} tokens are recalled from the long context alone and have {of_gain[0]:.1%} of the gain"
        )
        return model_answer(self.spec, self.info, values, extra, [line, *notes], seed)


def _part(gain: np.ndarray, flags: np.ndarray, seed: int) -> list[float]:
    """Mean gain over flagged tokens, and the bounds of its interval over windows."""
    counts = flags.sum(1).astype(np.float64)
    means = np.where(counts > 0, (gain * flags).sum(1) / np.maximum(counts, 1.0), np.nan)
    value = float(gain[flags].mean()) if flags.any() else np.nan
    return [value, *bounds(means, counts, seed).tolist()]


def _cut(prompt: Prompt, start: int, stop: int) -> Prompt:
    """Tokens ``[start, stop)`` of a prompt, after its beginning-of-sequence token where it has one."""
    at = [*([0] if prompt.bos and start > 0 else []), *range(start, stop)]
    spans = {name: flags[at] for name, flags in prompt.spans.items()}
    spans["last"] = np.arange(len(at)) == len(at) - 1
    return replace(
        prompt, text="", tokens=tuple(prompt.tokens[i] for i in at),
        str_tokens=tuple(prompt.str_tokens[i] for i in at), spans=spans, offsets=None,
    )  # fmt: skip
