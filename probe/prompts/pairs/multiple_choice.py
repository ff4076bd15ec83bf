"""Multiple-choice pairs: which of four words is of a kind, answered by its letter.

What answer-letter heads are found with (Lieberum et al. 2023, arXiv:2307.09458). In the corrupt prompt two options have
changed places, so that another letter is right.
"""

from typing import Any

import numpy as np

from probe.prompts.choices import LETTERS
from probe.prompts.data import rows
from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.pairs.slots import Draft, fill
from probe.prompts.pairs.words import whole_words

_SOLVED = 2  # questions shown with their answers
_ROLES = ("right", "other", "third", "fourth")
_Kinds = dict[str, list[str]]


def multiple_choice_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs whose corrupt prompt has the right option and another one exchanged; wrong is the other's letter.

    Every letter is right equally often. The questions shown first are answered by the other letters in turn.

    Marks: ``right`` and ``other`` (where these two options stand), ``right_letter`` and ``other_letter`` (the letters
    before them), the same of ``third`` and ``fourth``, ``asked`` (the kind), ``end``.

    Raises:
        InputError: this tokenizer splits the letters, or the words of too many kinds.
    """
    kinds = _kinds(tokenizer)
    generator = np.random.default_rng(seed)
    return PairSet(
        "multiple_choice",
        tuple(
            _pair(f"multiple_choice:{n}", n % len(LETTERS), kinds, generator, tokenizer) for n in range(count)
        ),
    )


def _kinds(tokenizer: Any) -> _Kinds:
    """The words of each kind that this tokenizer keeps whole, of the kinds that have two of them and are whole."""
    task, shipped = "multiple_choice", {str(row["kind"]): row["words"] for row in rows("kinds.jsonl")}
    whole_words(task, LETTERS, tokenizer, least=len(LETTERS))
    words = set(whole_words(task, (word for one in shipped.values() for word in one), tokenizer, least=8))
    kinds = {kind: [word for word in all_ if word in words] for kind, all_ in shipped.items()}
    named = whole_words(task, kinds, tokenizer, least=1)
    usable = {kind: kinds[kind] for kind in named if len(kinds[kind]) >= 2}
    whole_words(task, usable, tokenizer, least=len(LETTERS))
    return usable


def _pair(name: str, right: int, kinds: _Kinds, generator: np.random.Generator, tokenizer: Any) -> Pair:
    letters = [
        LETTERS[right],
        *(one for one in generator.permutation(LETTERS).tolist() if one != LETTERS[right]),
    ]
    shown = ""
    for answer in letters[1 : 1 + _SOLVED]:
        before = [answer, *(one for one in generator.permutation(LETTERS).tolist() if one != answer)]
        shown += fill(*_question(before, kinds, generator)).text + f" {answer}\n\n"
    template, clean = _question(letters, kinds, generator)
    corrupt = clean | {"right": clean["other"], "other": clean["right"]}
    return Draft(name, shown + template, clean, corrupt).answered(
        " " + letters[0], " " + letters[1], tokenizer
    )


def _question(
    letters: list[str], kinds: _Kinds, generator: np.random.Generator
) -> tuple[str, dict[str, str]]:
    """A template and its words; `letters` are those of the roles."""
    chosen = generator.permutation(list(kinds))[: len(_ROLES)].tolist()
    words = {role: str(generator.choice(kinds[kind])) for role, kind in zip(_ROLES, chosen, strict=True)}
    words |= {f"{role}_letter": letter for role, letter in zip(_ROLES, letters, strict=True)}
    by_letter = sorted(zip(letters, _ROLES, strict=True))
    lines = "\n".join(f"{{{role}_letter}}: {{{role}}}" for _, role in by_letter)
    article = "an" if chosen[0][0] in "aeiou" else "a"
    return f"Which of these is {article} {{asked}}?\n{lines}\nAnswer:", words | {"asked": chosen[0]}
