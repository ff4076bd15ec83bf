"""Thought anchors: heads that keep looking back at a few sentences, and what happens when a sentence is suppressed."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from probe.errors import InputError, UsageError
from probe.experiments.anchors_answer import Measured, Text, anchors_answer
from probe.experiments.base import Ask
from probe.experiments.forwards import watch
from probe.experiments.receivers import highest_heads, mean_defined, receiver_kurtosis, reliability, verticals
from probe.experiments.responses import decoder_reads, stretch, up_to_response
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.sentence_attention import SentenceAttention
from probe.experiments.suppression import Kl, suppression
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.metrics.received import Received
from probe.prompts import Prompt
from probe.prompts.sentences import sentences
from probe.report.answer import Answer

_DEFINED = 4  # sentences that must have a value for a kurtosis to say something


class ThoughtAnchors:
    """Kurtosis over sentences of the attention that a head gives them from later ones (no unit, −2 or more).

    With M[a, b] the mean pattern cell of (rows of sentence a) × (keys of sentence b), vert[b] is its mean over
    a >= b + `proximity`, and a head's value Fisher's biased kurtosis of vert, mean over prompts. The `top` heads with
    the largest are *receiver heads*; a sentence's receiver score is the mean of their vert. Sentences are those of the
    span ``response``, or of the whole text where there is none; a BOS is part of none.

    `extra` holds ``receivers`` (layer, head; 1 for the receiver heads), ``receiver_score`` (prompt, sentence), ``map``
    (prompt, sentence, source; mean M of the receiver heads), the tokens ``start`` and ``stop`` of every sentence, and
    ``reliability`` (statistic): the correlation over heads of odd with even prompts, with its interval over prompts.
    With `suppression`, ``suppression`` (prompt, sentence, source) says how much the predictions in a sentence change
    when the source is hidden from all that follows: mean ln(KL + 1e-9) over its tokens, less the mean over sources; and
    ``suppression_effect`` (prompt, sentence) the mean of a source over the sentences after it.

    Bogdan et al., "Thought Anchors: Which LLM Reasoning Steps Matter?", 2025.

    Args:
        top: how many heads are called receiver heads.
        proximity: sentences nearer than this do not count.
        control_depth: ranks within each row of M in place of M, as the authors' code offers.
        suppression: compute the suppression matrix as well: a forward more per sentence.
        kl: ``sparse`` as the authors' code (a token that is lost counts with a logit of −1e9), or ``grouped`` (whole
            distributions, the tokens that were not kept counted as one).
        sink: ``drop`` leaves the first token, where attention sinks, out of the first sentence; ``keep`` it there.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="thought_anchors",
        summary="Kurtosis over sentences of the attention a head gives them from later ones, -2 or more, no unit; "
        "receiver heads.",
        unit="kurtosis",
        better="high",
        paper="Bogdan et al. 2025",
        bibtex=Received.info.bibtex,
        causal_only=True,
        slow=True,
    )

    def __init__(
        self,
        top: int = 20,
        proximity: int = 4,
        control_depth: bool = False,
        suppression: bool = False,
        kl: Kl = "sparse",
        sink: Literal["keep", "drop"] = "keep",
    ) -> None:
        self.spec = self.info.name
        at_least("thought_anchors", "top", top, 1)
        at_least("thought_anchors", "proximity", proximity, 1)
        one_of("thought_anchors", "kl", kl, ("sparse", "grouped"))
        one_of("thought_anchors", "sink", sink, ("keep", "drop"))
        if kl != "sparse" and not suppression:
            raise UsageError(
                f"thought_anchors: kl was {kl!r} without suppression: write suppression=true as well"
            )
        self.top, self.proximity, self.control_depth = top, proximity, control_depth
        self.suppression, self.kl, self.sink = suppression, kl, sink

    def run(self, ask: Ask) -> list[Answer]:
        """Two forwards per prompt, and one per sentence with `suppression`; the seed draws the interval.

        Models without a causal decoder that reads text get NaN and the reason.

        Raises:
            InputError: no prompt has enough sentences, or a response lies in several pieces.
            UsageError: `suppression` of a model that predicts no next token.
        """
        reason = decoder_reads(ask)
        if reason is None:
            texts, notes = self._texts([up_to_response(prompt) for prompt in ask.texts()])
            found = [self._verticals(ask, texts, number) for number in range(len(texts))]
            if found[0]:
                return [self._answer(ask, texts, found, notes)]
            reason = "it needs causal self-attention of a decoder"
        return [not_applicable(self.info, self.spec, ask.model, reason)]

    def _texts(self, prompts: Sequence[Prompt]) -> tuple[list[Text], list[str]]:
        """The prompts with enough sentences, and a line on those without."""
        need = self.proximity + _DEFINED
        texts: list[Text] = []
        short: list[Text] = []
        for prompt in prompts:
            start, stop = stretch(prompt)
            first = max(start, int(prompt.bos or self.sink == "drop"))
            text = Text(prompt, sentences(prompt, first, stop))
            (texts if len(text.sentences) >= need else short).append(text)
        named = ", ".join(f"{text.prompt.id!r} has {len(text.sentences)}" for text in short[:3])
        if not texts:
            raise InputError(
                f"thought_anchors needs {need} sentences (proximity {self.proximity} + {_DEFINED}); prompt {named}: "
                "give longer text, or a lower proximity"
            )
        left = f"{len(short)} prompts were left out, with fewer than {need} sentences: {named}"
        notes = [left] if short else []
        if any(text.sentences[0].start == 0 for text in texts):
            notes.append(
                "the first sentence holds the first token, where attention sinks: sink=drop leaves the token out"
            )
        return texts, notes

    def _verticals(self, ask: Ask, texts: Sequence[Text], number: int) -> dict[int, np.ndarray]:
        """Per layer, vert of every head: ``[head, sentence]``."""
        ask.tell(number, 2 * len(texts), f"{self.spec}: attention between sentences")
        found: dict[int, np.ndarray] = {}

        def take(layer: int, between: Tensor) -> None:
            found[layer] = verticals(between.numpy(), self.proximity, control_depth=self.control_depth)

        watch(ask.model, texts[number].prompt, [SentenceAttention(texts[number].sentences, take)])
        return found

    def _answer(
        self, ask: Ask, texts: Sequence[Text], found: Sequence[dict[int, np.ndarray]], notes: Sequence[str]
    ) -> Answer:
        layers = sorted(found[0])
        n_heads = [len(found[0][layer]) for layer in layers]
        kurtoses = np.full((len(texts), len(layers), max(n_heads)), np.nan)
        for number, one in enumerate(found):
            for row, layer in enumerate(layers):
                kurtoses[number, row, : n_heads[row]] = receiver_kurtosis(one[layer])
        chosen = highest_heads(mean_defined(kurtoses), self.top)
        heads = {layer: np.flatnonzero(chosen[row] == 1) for row, layer in enumerate(layers)}
        for number, (text, one) in enumerate(zip(texts, found, strict=True)):
            ask.tell(len(texts) + number, 2 * len(texts), f"{self.spec}: receiver heads")
            if np.nansum(chosen):
                text.score = np.concatenate([one[layer][heads[layer]] for layer in layers]).mean(0)
                text.between = _mean_between(ask, text, heads)
            if self.suppression:
                text.effects = self._suppressed(ask, text)
        ask.tell(2 * len(texts), 2 * len(texts), self.spec)
        measured = Measured(layers, n_heads, kurtoses, chosen, reliability(kurtoses, ask.seed))
        return anchors_answer(self.info, self.spec, measured, texts, [self._how(), *notes])

    def _suppressed(self, ask: Ask, text: Text) -> np.ndarray:
        count = len(text.sentences)

        def tell(done: int) -> None:
            ask.tell(done, count, f"{self.spec}: suppressing sentences of {text.prompt.id}")

        return suppression(ask.model, text.prompt, text.sentences, self.kl, tell)

    def _how(self) -> str:
        ranks = ", rows ranked" if self.control_depth else ""
        kind = f", suppression with {self.kl} KL" if self.suppression else ""
        kind += ", first token left out" if self.sink == "drop" else ""
        return f"proximity {self.proximity}{ranks}, {self.top} receiver heads{kind}"


def _mean_between(ask: Ask, text: Text, heads: Mapping[int, np.ndarray]) -> np.ndarray:
    """Mean M over the chosen heads, ``[sentence, source]``, in one more forward."""
    count = len(text.sentences)
    total = np.zeros((count, count))

    def take(layer: int, between: Tensor) -> None:
        total[:] += between.numpy()[heads[layer]].sum(0)

    layers = frozenset(layer for layer, some in heads.items() if len(some))
    watch(ask.model, text.prompt, [SentenceAttention(text.sentences, take, layers)])
    return total / sum(map(len, heads.values()))
