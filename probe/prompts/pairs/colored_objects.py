"""Colored-objects pairs: three things on a surface, and the question which color one of them has.

The task of Merullo et al. 2024 (arXiv:2310.08744) with words of our own: one solved question first, the answer
capitalised. The corrupt prompt asks for another of the three things.
"""

from typing import Any

import numpy as np

from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.pairs.slots import Draft, fill
from probe.prompts.pairs.words import whole_words, word_list

_SEEN = ("there is", "you see", "I see")


def colored_objects_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs whose corrupt prompt asks for another thing; wrong is that thing's color.

    Marks: ``object`` and ``color`` (the asked thing where it lies), ``other_object`` and ``other_color`` (the one that
    the corrupt prompt asks for), ``asked`` (the thing in the question) and ``end``.

    Raises:
        InputError: this tokenizer splits the things or the colors.
    """
    things = whole_words("colored_objects", word_list("objects"), tokenizer, least=4)
    capitals = whole_words(
        "colored_objects", (color.capitalize() for color in word_list("colors")), tokenizer, least=4
    )
    colors = [color.lower() for color in capitals]
    generator = np.random.default_rng(seed)
    return PairSet(
        "colored_objects",
        tuple(_pair(f"colored_objects:{n}", things, colors, generator, tokenizer) for n in range(count)),
    )


def _pair(
    name: str, things: list[str], colors: list[str], generator: np.random.Generator, tokenizer: Any
) -> Pair:
    shot, template = (_question(generator) for _ in range(2))
    first, clean = (_words(things, colors, generator) for _ in range(2))
    solved = fill(shot, first).text + " " + first["color"].capitalize()
    draft = Draft(name, f"{solved}\n\n{template}", clean, clean | {"asked": clean["other_object"]})
    return draft.answered(
        " " + clean["color"].capitalize(), " " + clean["other_color"].capitalize(), tokenizer
    )


def _question(generator: np.random.Generator) -> str:
    order = generator.permutation(
        ["{color} {object}", "{other_color} {other_object}", "{third_color} {third_object}"]
    )
    first, second, third = order.tolist()
    seen = generator.choice(_SEEN)
    surface = generator.choice(word_list("surfaces"))
    return (
        f"Q: On the {surface}, {seen} a {first}, a {second}, and a {third}. What color is the {{asked}}?\nA:"
    )


def _words(things: list[str], colors: list[str], generator: np.random.Generator) -> dict[str, str]:
    roles = ("", "other_", "third_")
    objects = dict(
        zip(
            (f"{role}object" for role in roles),
            generator.choice(things, 3, replace=False).tolist(),
            strict=True,
        )
    )
    painted = dict(
        zip(
            (f"{role}color" for role in roles),
            generator.choice(colors, 3, replace=False).tolist(),
            strict=True,
        )
    )
    return {**objects, **painted, "asked": objects["object"]}
