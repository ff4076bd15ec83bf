"""Needles that the detection of retrieval heads never saw, hidden in a part of the haystack that it never saw."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.models import LoadedModel
from probe.prompts import HiddenNeedle, Prompt, haystack, hide, needles

DETECTED_WITH = (
    4  # needles that the detection of retrieval heads uses (the train part); all others are held out
)
LENGTHS = (512, 1024, 2048)
SMALL = (256,)  # lengths of a smoke check
DEPTHS = (0.1, 0.5, 0.9)
# The detection reads the first half of the haystack and a little more; ordinary text is taken from the last fifth.
FROM, TO = 0.52, 0.75


def held_out(
    loaded: LoadedModel, count: int, seed: int = 0, lengths: Sequence[int] = LENGTHS
) -> list[Prompt]:
    """`count` held-out needles, each at every length, in a haystack of its own, the depth moving on."""
    draw = np.random.default_rng(seed)
    made = []
    for number, needle in enumerate(needles()[DETECTED_WITH : DETECTED_WITH + count]):
        for at, length in enumerate(lengths):
            start = int(draw.integers(int(len(haystack()) * FROM), int(len(haystack()) * TO)))
            depth = DEPTHS[(number + at) % len(DEPTHS)]
            made.append(hide(HiddenNeedle(needle, length, depth, "complete", start), loaded.tokenizer))
    return made


def needle_of(prompt: Prompt) -> str:
    """The name of the needle in a prompt: prompts that share it are no independent draws."""
    return str(prompt.id).split(":")[1]


def length_of(prompt: Prompt) -> int:
    """The length that was asked of a prompt."""
    return int(str(prompt.id).split(":n")[1].split(":")[0])


def lengths_of(prompts: Sequence[Prompt]) -> list[int]:
    """The lengths that were asked, each once, from the shortest on."""
    return sorted({length_of(prompt) for prompt in prompts})


def by_length(prompts: Sequence[Prompt], values: Any) -> list[str]:
    """The mean of `values` at every length, in the order of `lengths_of`."""
    of = np.asarray([length_of(prompt) for prompt in prompts])
    return [f"{np.asarray(values)[of == length].mean():.2f}" for length in lengths_of(prompts)]
