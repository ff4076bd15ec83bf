"""Arithmetic pairs: the sum of small numbers behind four solved sums, as All-for-One (Mamidanna et al. 2025) asks.

"3 + 4 = " → "7". The corrupt prompt has another last operand. Only numbers that are one token are used, and all prompts
of a task are of one length with the same kind of token at each position, so that a state can be averaged over prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.prompts.pairs.answers import following_each, known_tokens
from probe.prompts.pairs.pair import PairSet
from probe.prompts.pairs.slots import Draft, fill

_SOLVED = 4  # sums shown with their answers
_LEAST, _LARGEST = 4, 20  # fewer numbers make no sums of three; larger ones are no small model's task
_OPERANDS = ("first", "second", "third")


@dataclass(frozen=True)
class _Numbers:
    """The numbers 1 to `largest` are one token each behind a sum.

    A tokenizer that joins a number to the space before it has the prompt end in ``=`` and the answer begin with the
    space; one that does not, in the space.
    """

    largest: int
    joined: bool

    @property
    def closing(self) -> str:
        """How a sum ends before its answer."""
        return " {equals}" if self.joined else " {equals} "

    def answer(self, number: int) -> str:
        """The answer as it is written behind the sum."""
        return f" {number}" if self.joined else str(number)


def arithmetic_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Sums of two numbers from 1; wrong is the sum of the corrupt prompt.

    Marks: ``first`` and ``second`` (the operands), ``plus``, ``equals`` and ``end`` (what the answer follows).

    Raises:
        InputError: this tokenizer splits the numbers or does not know them.
    """
    return _sums("arithmetic", 2, tokenizer, (count, seed))


def arithmetic_three_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Sums of three numbers from 1; marks as of two, with ``third`` and the second operator ``plus_third``.

    Raises:
        InputError: this tokenizer splits the numbers or does not know them.
    """
    return _sums("arithmetic_three", 3, tokenizer, (count, seed))


def _sums(task: str, operands: int, tokenizer: Any, drawn: tuple[int, int]) -> PairSet:
    numbers = _numbers(task, tokenizer)
    count, seed = drawn
    generator = np.random.default_rng(seed)
    slots = _OPERANDS[:operands]
    template = " {plus} ".join(f"{{{slot}}}" for slot in slots) + numbers.closing
    template = template.replace("{plus} {third}", "{plus_third} {third}")
    made = []
    for number in range(count):
        clean, corrupt = _two(numbers, operands, generator)
        solved = [_operands(numbers, operands, generator, (clean, corrupt)) for _ in range(_SOLVED)]
        shown = "".join(
            fill(template, _words(slots, one)).text + numbers.answer(sum(one)) + "\n" for one in solved
        )
        draft = Draft(f"{task}:{number}", shown + template, _words(slots, clean), _words(slots, corrupt))
        made.append(draft.answered(numbers.answer(sum(clean)), numbers.answer(sum(corrupt)), tokenizer))
    return PairSet(task, tuple(made))


def _numbers(task: str, tokenizer: Any) -> _Numbers:
    for numbers in (_Numbers(_LARGEST, True), _Numbers(_LARGEST, False)):
        text = fill("1 {plus} 2" + numbers.closing, _words((), ())).text
        said = following_each(text, [numbers.answer(one) for one in range(1, _LARGEST + 1)], tokenizer)
        whole = [*known_tokens(said, tokenizer), False].index(False)
        if whole > _LEAST:
            return _Numbers(whole, numbers.joined)
    raise InputError(
        f"pairs of {task} were asked; this tokenizer splits or does not know the numbers 1 to {_LEAST + 1} "
        "behind an equals sign: give pairs of your own"
    )


def _operands(
    numbers: _Numbers, count: int, generator: np.random.Generator, asked: Sequence[list[int]] = ()
) -> list[int]:
    """A sum, none of those that are asked: what was shown could be copied."""
    while True:
        drawn: list[int] = generator.integers(1, numbers.largest, count).tolist()
        if sum(drawn) <= numbers.largest and drawn not in asked:
            return drawn


def _two(numbers: _Numbers, count: int, generator: np.random.Generator) -> tuple[list[int], list[int]]:
    """Two sums that differ in their last operand."""
    while True:
        clean = _operands(numbers, count, generator)
        last = int(generator.integers(1, numbers.largest - sum(clean[:-1]) + 1))
        if last != clean[-1]:
            return clean, [*clean[:-1], last]


def _words(slots: Sequence[str], operands: Sequence[int]) -> Mapping[str, str]:
    signs = {"plus": "+", "plus_third": "+", "equals": "="}
    return {**dict(zip(slots, map(str, operands), strict=True)), **signs}
