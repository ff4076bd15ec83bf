"""Whether a model still finds a needle: greedy answers under interventions, as ROUGE-1 recall."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import probe
from probe.experiments.decoding import decode, stops_at
from probe.experiments.rouge import rouge1_recall
from probe.models import LoadedModel
from probe.prompts import HiddenNeedle, Prompt, haystack, hide, needles

DETECTED_WITH = 4  # needles that the detection of retrieval heads uses; all others are held out
LENGTHS = (512, 1024, 2048)
DEPTHS = (0.1, 0.5, 0.9)
EXTRA = 4


def held_out(loaded: LoadedModel, count: int, seed: int) -> list[Prompt]:
    """Prompts that hide needles which the detection never saw: each needle at every length, the depth moving on."""
    draw = np.random.default_rng(seed)
    made = []
    for number, needle in enumerate(needles()[DETECTED_WITH : DETECTED_WITH + count]):
        for at, length in enumerate(LENGTHS):
            start = int(draw.integers(len(haystack()) // 2, len(haystack()) * 3 // 4))
            hidden = HiddenNeedle(needle, length, DEPTHS[(number + at) % len(DEPTHS)], "complete", start)
            made.append(hide(hidden, loaded.tokenizer))
    return made


def retrieval_heads(loaded: LoadedModel, count: int) -> list[str]:
    """The heads with the highest retrieval score, found with the default needles, which are not held out."""
    report = probe.analyze(loaded, "unused", metrics=["retrieval"], seed=0)
    return [f"L{row.layer}.H{row.head}" for row in report.top("retrieval", count).itertuples()]


def recalls(
    loaded: LoadedModel, prompts: Sequence[Prompt], edits: Callable[[Prompt], list[Any]]
) -> np.ndarray:
    """ROUGE-1 recall of every prompt's answer in the greedy response under its edits; no edits: the model's own."""
    found = []
    for prompt in prompts:
        chosen = edits(prompt)
        if chosen:
            with probe.edit(loaded, chosen, prompts=[prompt]):
                found.append(_recall(loaded, prompt))
        else:
            found.append(_recall(loaded, prompt))
    return np.asarray(found)


def _recall(loaded: LoadedModel, prompt: Prompt) -> float:
    limit = len(loaded.tokenizer(" " + str(prompt.answer), add_special_tokens=False)["input_ids"]) + EXTRA
    steps = decode(loaded, prompt, limit=limit, stop=stops_at(loaded))
    return rouge1_recall(str(prompt.answer), loaded.tokenizer.decode([step.token for step in steps]))


def interval(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over prompts (2000 resamples)."""
    draws = np.random.default_rng(seed).integers(0, len(values), size=(2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def shown(values: np.ndarray) -> str:
    """A mean with its interval: ``0.93 [0.85, 0.99]``."""
    low, high = interval(values)
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"
