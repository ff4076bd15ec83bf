"""Questions with a few valid answers: letters of a list, or names of kinds, each one word."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from probe.errors import InputError, UsageError
from probe.prompts.data import rows

Task = Literal["letters", "kinds"]
Part = Literal["train", "held_out"]

LETTERS = ("A", "B", "C", "D")
_TRAIN = 6  # words of a kind that are of the train part; the rest is held out


@dataclass(frozen=True)
class Question:
    """A question up to its answer, which one of `choices` is; the answer follows after a space."""

    id: str
    text: str
    answer: str
    choices: tuple[str, ...]


def choice_questions(
    tokenizer: Any, *, task: Task = "letters", part: Part = "train", count: int = 16, seed: int = 0
) -> list[Question]:
    """Seeded questions on the shipped words of six kinds.

    ``letters``: which of four words is of a kind, answered by its letter; each letter is right equally often.
    ``kinds``: the kind of one word among four that are named in the question. Choices are words (or letters) that are
    one token for this tokenizer.

    Raises:
        UsageError: fewer than one question is asked.
        InputError: too few choices are one token.
    """
    if count < 1:
        raise UsageError(f"{count} questions were asked; ask for at least 1")
    kinds = {str(row["kind"]): _part(row["words"], part) for row in rows("kinds.jsonl")}
    usable = [one for one in (LETTERS if task == "letters" else kinds) if token_ids(one, tokenizer)]
    if len(usable) < len(LETTERS):
        raise InputError(
            f"questions with {task} were asked; this tokenizer splits all but {len(usable)} of the choices: give "
            "prompts and choices of your own"
        )
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        if task == "letters":
            made.append(_letters(kinds, number, generator))
        else:
            made.append(_kinds({kind: kinds[kind] for kind in usable}, number, generator))
    return made


def token_ids(word: str, tokenizer: Any) -> set[int]:
    """The tokens that say a word by themselves, with and without a space before it; empty where it is split."""
    said = (tokenizer(form, add_special_tokens=False)["input_ids"] for form in (word, " " + word))
    return {int(ids[0]) for ids in said if len(ids) == 1}


def _part(words: list[str], part: Part) -> list[str]:
    return words[:_TRAIN] if part == "train" else words[_TRAIN:]


def _letters(kinds: dict[str, list[str]], number: int, generator: np.random.Generator) -> Question:
    asked, *others = generator.permutation(list(kinds))[: len(LETTERS)].tolist()
    answer = LETTERS[number % len(LETTERS)]
    words = [str(generator.choice(kinds[kind])) for kind in others]
    words.insert(LETTERS.index(answer), str(generator.choice(kinds[asked])))
    lines = "\n".join(f"{letter}: {word}" for letter, word in zip(LETTERS, words, strict=True))
    article = "an" if asked[0] in "aeiou" else "a"
    text = f"Which of these is {article} {asked}?\n{lines}\nAnswer:"
    return Question(f"letters:{number}", text, answer, LETTERS)


def _kinds(kinds: dict[str, list[str]], number: int, generator: np.random.Generator) -> Question:
    named = generator.permutation(list(kinds))[: len(LETTERS)].tolist()
    answer = named[number % len(named)]
    word = str(generator.choice(kinds[answer]))
    text = f"Kinds: {', '.join(named)}.\nWord: {word}\nKind:"
    return Question(f"kinds:{number}", text, answer, tuple(named))
