"""Examples before a question: which ones, and what they are answered with."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from probe.errors import InputError
from probe.prompts.choices import Question

Demo = Literal["right", "wrong", "other"]

OTHER = ("indeed", "perhaps", "maybe", "well")  # words that answer nothing
_BREAK = "\n\n"


def with_examples(question: Question, examples: Sequence[Question], demo: Demo, seed: int = 0) -> str:
    r"""The text of a question after its examples, each answered by the right choice, a wrong one or another word.

    >>> one = Question("a", "1 + 1 =", "2", ("1", "2"))
    >>> with_examples(Question("b", "1 + 0 =", "1", ("1", "2")), [one], "right")
    '1 + 1 = 2\n\n1 + 0 ='
    """
    generator = np.random.default_rng(seed)
    parts = [f"{one.text} {_said(one, demo, generator)}" for one in examples]
    return _BREAK.join([*parts, question.text])


def before(questions: Sequence[Question], shots: int) -> list[list[Question]]:
    """For each question the next `shots` ones that have an answer, from the front again behind the last.

    Raises:
        InputError: fewer than `shots` other questions have an answer.
    """
    found = []
    for place, question in enumerate(questions):
        others = [one for one in (*questions[place + 1 :], *questions[:place]) if one.answer]
        if len(others) < shots:
            raise InputError(
                f"{shots} examples before {question.id!r} were asked; {len(others)} other prompts have an answer: give "
                "more prompts with an answer, or shots=0"
            )
        found.append(others[:shots])
    return found


def _said(example: Question, demo: Demo, generator: np.random.Generator) -> str:
    if demo == "right":
        return example.answer
    choices = [one for one in example.choices if one != example.answer]
    words = choices if demo == "wrong" else [one for one in OTHER if one not in example.choices]
    return str(generator.choice(words))
