"""The rhythm of reasoning: local heads that plan, global heads that anchor, and the credit that follows from both."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.forwards import watch
from probe.experiments.responses import decoder_reads, stretch, up_to_response
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.rhythm_answer import Found, ratio, rhythm_answer
from probe.experiments.rhythm_credit import Rule, credit
from probe.experiments.rhythm_signals import GroupSignals, HeadDistance, Heads
from probe.metrics.base import MetricInfo
from probe.metrics.local_global import LocalGlobal
from probe.metrics.making import at_least, one_of
from probe.metrics.papers import LI_2025
from probe.prompts import Prompt
from probe.report.answer import Answer

__all__ = ["Rhythm", "Rule", "credit"]

Sink = Literal["keep", "drop"]


class Rhythm:
    """Mean attended distance of every head, in tokens, 0 or more, and what its near and far heads say of each token.

    A first pass takes D[l,h] = mean over response tokens t of Σ_s p_ts (t − s); the lowest `fraction` of the sampled
    heads are local, the highest global. A second pass takes, per token, WAAD_t = Σ_s p̄_ts min(t − s, window) of the
    mean pattern p̄ of the local heads, and FAI_s = mean of p̄_ts of the global heads over the response tokens t from
    s + lo to s + hi. Tokens with a high |WAAD_t − WAAD_{t+1}| plan ahead, tokens with a high FAI are anchors. The
    response is the prompt's span ``response``, or the whole text where there is none; keys are all tokens before.

    `extra` holds, per (prompt, token) and NaN outside the response: ``waad``, ``delta``, ``fai``, the flags
    ``preplan``, ``anchor``, ``peak:waad`` and ``peak:fai``, and the weights ``credit:local``, ``credit:global`` and
    ``credit:coupled`` of `credit`. ``group`` says -1 (local), 1 (global) or 0 of each head. ``coupling`` (measure,
    statistic) says how often an FAI peak has a WAAD peak within k tokens (``within``), or at it or in the k tokens
    before (``follows``), beside circular shifts.

    Li et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm", 2025.

    Args:
        layers: ``all``, ``five`` (evenly spaced in the middle third, as the paper trains), or numbers joined by ``+``.
        fraction: share of the sampled heads in either group, at most 0.5.
        window: distances are cut at it in WAAD.
        horizon: lo and hi of FAI, joined by ``+``; the paper's earlier version has ``10+50``.
        sink: ``keep`` the first token in the distance of heads as the paper does, or ``drop`` it and its mass.
        rule: parts of `Rule` to change, joined by ``;``, such as ``gain=2;k=1``.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="rhythm",
        summary="Mean attended distance of a head over response tokens, 0 or more; near and far heads credit tokens.",
        unit="tokens",
        better="high",
        paper="Li et al. 2025",
        bibtex=LI_2025,
        causal_only=True,
    )

    def __init__(
        self,
        layers: str = "all",
        fraction: float = 0.3,
        window: int = 10,
        horizon: str = "10+100",
        sink: Sink = "keep",
        rule: str = "",
    ) -> None:
        self.spec = self.info.name
        self.layers = _layers(layers)
        self.grouping = LocalGlobal(fraction)
        at_least("rhythm", "window", window, 1)
        self.window = window
        self.band = _horizon(horizon)
        one_of("rhythm", "sink", sink, ("keep", "drop"))
        self.sink: Sink = sink
        self.rule = Rule.parse(rule)

    def run(self, ask: Ask) -> list[Answer]:
        """Two forwards per prompt; the seed draws the shifts that peaks are compared with.

        Models without a causal decoder that reads text get NaN and the reason.

        Raises:
            InputError: a layer that was asked is not there, or a response in several pieces.
        """
        reason = decoder_reads(ask)
        if reason is None:
            prompts = [up_to_response(prompt) for prompt in ask.texts()]
            passes = [self._distances(ask, prompts, number) for number in range(len(prompts))]
            if passes[0].total:
                return [self._answer(ask, prompts, passes)]
            reason = "it needs causal self-attention of a decoder"
        return [not_applicable(self.info, self.spec, ask.model, reason)]

    def _distances(self, ask: Ask, prompts: Sequence[Prompt], number: int) -> HeadDistance:
        ask.tell(number, 2 * len(prompts), f"{self.spec}: distances")
        observer = HeadDistance(*stretch(prompts[number]), sink=self.sink == "keep")
        watch(ask.model, prompts[number], [observer])
        return observer

    def _answer(self, ask: Ask, prompts: Sequence[Prompt], passes: Sequence[HeadDistance]) -> Answer:
        layers = self._sampled(sorted(passes[0].total))
        each = np.stack([_grid(one, layers) for one in passes])
        group = self.grouping.finish(ratio(each.sum(0)))
        n_heads = [len(passes[0].total[layer]) for layer in layers]
        found = Found(self.info, self.spec, layers, n_heads, each, group)
        near, far = _heads(group == -1, layers), _heads(group == 1, layers)
        for number, prompt in enumerate(prompts):
            ask.tell(len(prompts) + number, 2 * len(prompts), f"{self.spec}: signals")
            observer = GroupSignals(near, far, self.window, self.band, len(prompt))
            watch(ask.model, prompt, [observer])
            start, stop = stretch(prompt)
            found.add(prompt.id, start, observer.waad(start, stop), observer.fai(start, stop))
        ask.tell(2 * len(prompts), 2 * len(prompts), self.spec)
        return rhythm_answer(found, self.rule, ask.seed, [self._how(layers)])

    def _sampled(self, present: Sequence[int]) -> list[int]:
        if self.layers == "all":
            return list(present)
        if self.layers == "five":
            return [present[at] for at in middle_five(len(present))]
        missing = [layer for layer in self.layers if layer not in present]
        if missing:
            raise InputError(
                f"rhythm: layer {missing[0]} was asked; attention was seen in layers {present[0]} to {present[-1]}"
            )
        return [layer for layer in present if layer in self.layers]

    def _how(self, layers: Sequence[int]) -> str:
        lo, hi = self.band
        numbers = "all layers" if self.layers == "all" else f"layers {', '.join(map(str, layers))}"
        sink = "" if self.sink == "keep" else ", first token left out of the distance"
        return f"{numbers}, fraction {self.grouping.fraction:g}, window {self.window}, horizon {lo} to {hi}{sink}"


def middle_five(count: int) -> list[int]:
    """Five evenly spaced numbers from ⌊count/3⌋ to ⌊2·count/3⌋ (or all of them), as the paper samples layers.

    >>> middle_five(36)
    [12, 15, 18, 21, 24]
    """
    last = min(2 * count // 3, count - 1)
    return sorted({int(np.floor(at + 0.5)) for at in np.linspace(count // 3, last, 5)})


def _grid(one: HeadDistance, layers: Sequence[int]) -> np.ndarray:
    """Totals and weights ``[2, layer, head]``; heads that a layer lacks have weight 0."""
    grid = np.zeros((2, len(layers), max(len(one.total[layer]) for layer in layers)))
    for row, layer in enumerate(layers):
        grid[0, row, : len(one.total[layer])] = one.total[layer].numpy()
        grid[1, row, : len(one.weight[layer])] = one.weight[layer].numpy()
    return grid


def _heads(chosen: np.ndarray, layers: Sequence[int]) -> Heads:
    return {layer: np.flatnonzero(chosen[row]).tolist() for row, layer in enumerate(layers)}


def _layers(given: str) -> str | tuple[int, ...]:
    if given in ("all", "five"):
        return given
    if not all(part.isdigit() for part in given.split("+")):
        raise UsageError(f"rhythm: layers was {given!r}; allowed: all, five, or layer numbers joined by +")
    return tuple(int(part) for part in given.split("+"))


def _horizon(given: str) -> tuple[int, int]:
    parts = given.split("+")
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or int(parts[0]) > int(parts[1]):
        raise UsageError(f"rhythm: horizon was {given!r}; allowed are two whole numbers LO+HI, LO at most HI")
    return int(parts[0]), int(parts[1])
