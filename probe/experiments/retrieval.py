"""Retrieval heads: which heads copy a hidden needle's answer out of a long haystack (Wu et al. 2024)."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np

from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.copy_tests import EXTRA_STEPS, CopyTest, answer_tokens, cannot_copy, run_tests
from probe.experiments.retrieval_answer import not_applicable, retrieval_answer
from probe.metrics.base import MetricInfo
from probe.models import LoadedModel
from probe.prompts import HiddenNeedle, Style, haystack, hide, needles
from probe.report.answer import Answer


class Retrieval:
    """Mean share of a hidden answer's tokens that a head copies, 0 to 1, over the tests that the model passes.

    A needle is hidden in a haystack and asked for; the model answers greedily. Head h *copies* at the step that emits
    token w iff its most attended key j* (over all visible keys) lies in the answer's span and x[j*] = w. Then
    ``score_h = |answer tokens copied by h| / |answer tokens|`` (as sets), averaged over the tests whose response has a
    ROUGE-1 recall of the answer above 0.5. Heads at or above 0.1 are called retrieval heads; those that copy in every
    counted test are always active, those that never do score exactly 0, the rest are dynamic.

    The answer's tokens are found by its characters: a token that the tokenizer joined across the answer's edge counts
    as the answer's, and a note names the tests. Tests whose answer is not found among the tokens are refused by name.

    Wu et al. 2024, Retrieval Head Mechanistically Explains Long-Context Factuality (arXiv:2404.15574).

    Args:
        lengths: prompt lengths in tokens, joined by ``+``.
        depths: where the needle lies, 0 (front) to 1 (back), joined by ``+``.
        needles: how many of the shipped needles to hide, one at a time.
        style: ``complete`` (the needle up to its answer follows the haystack), ``question`` or ``chat``.
        dedup: count each answer token once; false counts every hit, as the authors' code does.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="retrieval",
        summary="Share of a hidden needle's answer tokens that a head copies, 0 to 1, mean over passed tests",
        unit="share of answer tokens",
        better="high",
        paper="Wu et al. 2024",
        bibtex="""@misc{wu2024retrieval,
  title={Retrieval Head Mechanistically Explains Long-Context Factuality},
  author={Wu, Wenhao and Wang, Yizhong and Xiao, Guangxuan and Peng, Hao and Fu, Yao},
  year={2024},
  eprint={2404.15574},
  archivePrefix={arXiv}
}""",
        causal_only=True,
    )

    def __init__(
        self,
        lengths: str | Sequence[int] = "500+1000",
        depths: str | Sequence[float] = "0.1+0.5+0.9",
        needles: int = 4,
        style: Style = "complete",
        dedup: bool = True,
    ) -> None:
        self.spec = self.info.name
        self.lengths = tuple(int(x) for x in _numbers("lengths", lengths, 1, math.inf, whole=True))
        self.depths = _numbers("depths", depths, 0.0, 1.0)
        self.needles = _shipped(needles)
        self.style: Style = style
        self.dedup = dedup

    def run(self, ask: Ask) -> list[Answer]:
        """Run every test and answer for the decoder; the seed chooses the parts of the haystack.

        Prompts are its own. Where the model cannot generate text, or no test passes, the scores are NaN and a note says
        why.
        """
        model = ask.model
        reason = _cannot(model, self.style)
        if reason:
            return [not_applicable(self.info, self.spec, model, reason)]
        tests, notes = self._tests(model, ask.seed)
        if not tests:
            return [not_applicable(self.info, self.spec, model, "; ".join(notes))]
        outcomes = run_tests(ask, tests, self.spec, dedup=self.dedup)
        return [retrieval_answer(self.info, self.spec, outcomes, [self._how(), *notes])]

    def _tests(self, model: LoadedModel, seed: int) -> tuple[list[CopyTest], list[str]]:
        generator = np.random.default_rng(seed)
        # One window per needle and length, the same at every depth: depths differ by the needle's place alone.
        windows = generator.integers(0, len(haystack()) // 2, size=(len(self.needles), len(self.lengths)))
        limit, notes = model.max_positions, []
        tests = []
        for at, length in enumerate(self.lengths):
            if limit is not None and length + self._most_steps(model) > limit:
                notes.append(
                    f"length {length} was left out: the model has {limit} positions, the answer's included"
                )
                continue
            for (number, needle), depth in product(enumerate(self.needles), self.depths):
                hidden = HiddenNeedle(needle, length, depth, self.style, int(windows[number, at]))
                tests.append(CopyTest(hide(hidden, model.tokenizer), length, depth))
        return tests, notes

    def _how(self) -> str:
        return f"style={self.style}, dedup={str(self.dedup).lower()}, {len(self.needles)} needles"

    def _most_steps(self, model: LoadedModel) -> int:
        answers = (one.answer for one in self.needles)
        return max(len(answer_tokens(model, answer)) for answer in answers) + EXTRA_STEPS


def _cannot(model: LoadedModel, style: str) -> str | None:
    """Why the model cannot be asked for a needle, or None."""
    reason = cannot_copy(model)
    if reason is None and style == "chat" and not getattr(model.tokenizer, "chat_template", None):
        return "style=chat needs a tokenizer with a chat template"
    return reason


def _shipped(count: int) -> tuple[Any, ...]:
    known = needles()
    if not 1 <= count <= len(known):
        raise UsageError(f"retrieval: needles was {count}; allowed is 1 to {len(known)}, the shipped ones")
    return known[:count]


def _numbers(
    name: str, given: str | Sequence[float], low: float, high: float, *, whole: bool = False
) -> tuple[float, ...]:
    try:
        values = tuple(_each(given))
    except ValueError:
        values = ()
    good = all(low <= value <= high and (not whole or value == int(value)) for value in values)
    if not values or not good or len(set(values)) != len(values):
        kind = "whole numbers" if whole else "numbers"
        bounds = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
        raise UsageError(
            f"retrieval: {name} was {given!r}; allowed are different {kind} {bounds}, joined by +"
        )
    return values


def _each(given: str | Sequence[float]) -> Iterator[float]:
    for part in given.split("+") if isinstance(given, str) else given:
        value = float(part)
        if not math.isfinite(value):
            raise ValueError(part)
        yield value
