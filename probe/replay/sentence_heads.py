"""How every head looks back at the sentences of a text, for claims on receiver heads."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from probe.experiments.forwards import watch
from probe.experiments.receivers import verticals
from probe.experiments.responses import stretch
from probe.experiments.sentence_attention import SentenceAttention
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.sentences import Sentence, sentences
from probe.replay.ordinary import passages

PROXIMITY, NEEDED = 4, 8  # sentences apart, and sentences of a text (see `thought_anchors`)


def written(loaded: LoadedModel, width: int | None = None) -> list[Prompt]:
    """The passages of `ordinary.passages` as prompts, cut to `width` tokens."""
    made = [
        Prompt.of_tokens(tokens, loaded.tokenizer, id=f"passage {number}")
        for number, tokens in enumerate(passages(loaded))
    ]
    return made if width is None else [one.truncate(width) for one in made]


def sentences_of(prompt: Prompt, *, sink: bool = False) -> list[Sentence]:
    """The sentences of a prompt's response, or of all of it; without the first token, unless `sink`."""
    start, stop = stretch(prompt)
    return sentences(prompt, max(start, int(prompt.bos or not sink)), stop)


def verticals_of(
    loaded: LoadedModel, prompt: Prompt, splits: Sequence[Sequence[Sentence]]
) -> list[np.ndarray]:
    """For every way of splitting a prompt, the vertical score of each sentence under every head, in one forward.

    Each ``[layer, head, sentence]``; NaN for the last `PROXIMITY` sentences.
    """
    found: list[dict[int, np.ndarray]] = [{} for _ in splits]

    def take(into: dict[int, np.ndarray], layer: int, between: Tensor) -> None:
        into[layer] = verticals(between.numpy(), PROXIMITY)

    observers = [
        SentenceAttention(split, lambda layer, between, into=into: take(into, layer, between))  # type: ignore[misc]
        for split, into in zip(splits, found, strict=True)
    ]
    watch(loaded, prompt, observers)
    return [np.stack([by_layer[layer] for layer in sorted(by_layer)]) for by_layer in found]
