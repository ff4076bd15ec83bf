"""Lookups in a JSON object of random keys: three solved, one asked (AttentionInfluence, arXiv:2505.07293)."""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import InputError, UsageError
from probe.prompts.corpus import train_text
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars

SOLVED = 3
KEY_LENGTH = 32
MOST_VALUE_TOKENS = 30
INSTRUCTION = (
    "Below is a JSON object. For each key that follows, say the value that the object has for it, only."
)

_ALPHANUMERIC = np.array(list(string.ascii_letters + string.digits))
_SENTENCE_END = re.compile(r"(?<=[.;:?!,])\s")
_WORDS = (4, 14)


@dataclass(frozen=True)
class Lookup:
    """A prompt with the span ``answer``: the value that is asked for, where it stands in the JSON object.

    `prompt.answer` is the value; `depth` is the place of its pair in the object, 0 (first) to 1 (last).
    """

    prompt: Prompt
    depth: float


def json_lookups(tokenizer: Any, *, count: int = 12, pairs: int = 6, seed: int = 0) -> list[Lookup]:
    """Seeded lookups: an instruction, a JSON object of `pairs` pairs, three solved keys, and the key that is asked.

    Keys are 32 random letters and digits. Values are parts of sentences of the shipped text (its part for training),
    at most 30 tokens each, no two alike. Solved and asked keys are different; the asked ones go through the places of
    the object in turn. The prompt ends with the asked key and an opening quote, so that the value that follows has the
    tokens it has in the object.

    Raises:
        UsageError: fewer than one lookup or four pairs.
        InputError: the text has too few values for so many pairs.
    """
    if count < 1 or pairs <= SOLVED:
        raise UsageError(
            f"count={count}, pairs={pairs} were asked; give at least 1 and at least {SOLVED + 1}"
        )
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        keys = ["".join(generator.choice(_ALPHANUMERIC, KEY_LENGTH)) for _ in range(pairs)]
        values = _values(generator, tokenizer, pairs)
        asked = number % pairs
        solved = generator.choice([at for at in range(pairs) if at != asked], SOLVED, replace=False).tolist()
        found.append(_lookup(keys, values, asked, solved, tokenizer, number))
    return found


def _lookup(
    keys: list[str], values: list[str], asked: int, solved: list[int], tokenizer: Any, number: int
) -> Lookup:
    rows = [f'"{key}": "{value}"' for key, value in zip(keys, values, strict=True)]
    front = f"{INSTRUCTION}\n\n{{\n" + "".join(row + ",\n" for row in rows[:asked])
    start = len(front) + len(f'"{keys[asked]}": "')
    body = ",\n".join(rows[asked:])
    examples = "".join(f"{rows[at]}\n" for at in solved)
    text = f'{front}{body}\n}}\n\n{examples}"{keys[asked]}": "'
    span = Chars((start, start + len(values[asked])))
    name = f"json:{number}:{asked + 1}of{len(keys)}"
    prompt = Prompt.of(text, tokenizer, spans={"answer": span}, id=name, answer=values[asked])
    return Lookup(prompt, asked / (len(keys) - 1))


def _values(generator: np.random.Generator, tokenizer: Any, pairs: int) -> list[str]:
    """Different parts of sentences, none inside another, each of few enough tokens."""
    text = train_text()
    values: list[str] = []
    for _ in range(50):
        start = int(generator.integers(0, max(1, len(text) - 4000)))
        for part in _parts(text[start : start + 4000]):
            coded = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            if len(coded) <= MOST_VALUE_TOKENS and not any(part in one or one in part for one in values):
                values.append(part)
                break
        if len(values) == pairs:
            return values
    raise InputError(f"{pairs} values were asked of the text; it gave {len(values)}: ask for fewer pairs")


def _parts(text: str) -> Iterator[str]:
    """The parts of sentences behind the first, which may be cut, without what JSON would have to escape."""
    for part in _SENTENCE_END.split(text)[1:-1]:
        plain = part.rstrip(".;:?!, ")
        if _WORDS[0] <= len(plain.split()) <= _WORDS[1] and not set(plain) & set('"\\\n'):
            yield plain
