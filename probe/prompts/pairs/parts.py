"""The train and the held-out part of a task: no pair is in both, whatever the seed."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from probe.errors import InputError
from probe.prompts.pairs.pair import Pair, PairSet

Part = Literal["train", "held_out"]
_TRIES = 6  # each draws twice as many pairs as the one before


def draw(make: Callable[[int], PairSet], count: int, part: Part | None) -> PairSet:
    """`count` different pairs of a part, from a maker that gives as many seeded pairs as it is asked for.

    Which part a pair is in depends on its two prompts alone, and a pair and its swapped one are in the same; about half
    of all pairs are in each.

    Raises:
        InputError: the task has too few different pairs.
    """
    asked = count if part is None else 2 * count
    chosen: dict[frozenset[tuple[int, ...]], Pair] = {}
    for _ in range(_TRIES):
        made = make(asked)
        chosen = {}
        for pair in made:
            if part is None or part_of(pair) == part:
                chosen.setdefault(frozenset((pair.clean.tokens, pair.corrupt.tokens)), pair)
        if len(chosen) >= count:
            return replace(made, pairs=tuple(chosen.values())[:count])
        asked *= 2
    raise InputError(
        f"{count} pairs of {made.task} were asked; with this tokenizer {len(chosen)} different ones were found among "
        f"{len(made)}: ask for fewer"
    )


def part_of(pair: Pair) -> Part:
    """The part that a pair is in, by a sum of its tokens' bytes."""
    both = sorted((pair.clean.tokens, pair.corrupt.tokens))
    return "train" if hashlib.sha256(repr(both).encode()).digest()[0] % 2 else "held_out"
