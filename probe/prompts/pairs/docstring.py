"""Docstring pairs: which argument a Python docstring describes next (after Heimersheim & Janiak 2023).

The signature names four arguments, the docstring has described two. In the corrupt prompt the third and the fourth
have changed places in the signature, so that the other one is next. (The original corrupts with names that are nowhere
else in the prompt; a name that is not there is no rival, and an induction head alone tells it from one that is.)
"""

from typing import Any

import numpy as np

from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.pairs.slots import Draft
from probe.prompts.pairs.words import whole_words, word_list

_TEMPLATE = """def FUNCTION(self, {first}, {second}, {third}, {fourth}):
    \"\"\"WORD WORD WORD

    :param {first_described}: WORD WORD
    :param {second_described}: WORD WORD
    :param"""


def docstring_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs whose corrupt signature has the last two arguments exchanged; wrong is the fourth argument.

    Marks: ``first``, ``second``, ``third``, ``fourth`` (the arguments in the signature), ``first_described`` and
    ``second_described`` (in the docstring), ``end``.

    Raises:
        InputError: this tokenizer splits the names.
    """
    names, words, functions = (
        whole_words("docstring", word_list(kind), tokenizer, least=least)
        for kind, least in (("arguments", 4), ("nouns", 7), ("functions", 1))
    )
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        template = _TEMPLATE.replace("FUNCTION", str(generator.choice(functions)))
        for word in generator.choice(words, template.count("WORD"), replace=False).tolist():
            template = template.replace("WORD", word, 1)
        arguments = generator.choice(names, 4, replace=False).tolist()
        made.append(_pair(f"docstring:{number}", template, arguments, tokenizer))
    return PairSet("docstring", tuple(made))


def _pair(name: str, template: str, arguments: list[str], tokenizer: Any) -> Pair:
    first, second, third, fourth = arguments
    clean = {
        "first": first, "second": second, "third": third, "fourth": fourth,
        "first_described": first, "second_described": second,
    }  # fmt: skip
    draft = Draft(name, template, clean, clean | {"third": fourth, "fourth": third})
    return draft.answered(" " + third, " " + fourth, tokenizer)
