"""Recall of what the text says against one step of inference from it: two tasks of one text, for a double dissociation.

"Anna was born in Paris. The city where Anna was born is called" → " Paris" (recall). "…The country where Anna was born
is called" → " France" (reasoning: the text says which city, the weights which country). One word tells the tasks apart,
so a component that serves one and not the other is none that reads the text or writes the answer. The corrupt prompt of
either says another city. After "Disentangling recall and reasoning" (2025), whose puzzles are not public.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from probe.prompts.pairs.counterfactual import known_relations
from probe.prompts.pairs.pair import PairSet
from probe.prompts.pairs.slots import Draft
from probe.prompts.pairs.words import whole_words, word_list

# A word stands before the name, because many tokenizers split a name that opens a text.
_TEMPLATES = (
    "Listen. {person} was born in {stated}. The {asked} where {person_again} was born is called",
    "Listen. {person} has moved to {stated}. The {asked} that {person_again} has moved to is called",
    "Listen. {person} works in {stated}. The {asked} in which {person_again} works is called",
)


def recall_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs that ask for the city that the text states; wrong is the city of the corrupt prompt.

    Marks: ``person``, ``stated`` (the city), ``asked`` (the word "city"), ``person_again``, ``end``. The same seed
    gives the texts of `reasoning_pairs`.

    Raises:
        InputError: this tokenizer splits the cities, their countries or the names.
    """
    return _pairs("recall", "city", lambda city, _: city, tokenizer, (count, seed))


def reasoning_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs that ask for the country of the city that the text states; wrong is the other city's country.

    Marks: as of `recall_pairs`; ``asked`` is the word "country". The same seed gives the same texts.

    Raises:
        InputError: this tokenizer splits the cities, their countries or the names.
    """
    return _pairs("reasoning", "country", lambda _, country: country, tokenizer, (count, seed))


def _pairs(
    task: str, asked: str, said: Callable[[str, str], str], tokenizer: Any, drawn: tuple[int, int]
) -> PairSet:
    names = whole_words(task, word_list("people"), tokenizer, least=1)
    (capitals,) = known_relations(task, tokenizer, "capital")
    count, seed = drawn
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        template, person = str(generator.choice(_TEMPLATES)), str(generator.choice(names))
        country, other = capitals.two(generator)
        city, other_city = capitals.facts[country], capitals.facts[other]
        clean = {"person": person, "person_again": person, "stated": city, "asked": asked}
        draft = Draft(f"{task}:{number}", template, clean, clean | {"stated": other_city})
        made.append(draft.answered(" " + said(city, country), " " + said(other_city, other), tokenizer))
    return PairSet(task, tuple(made))
