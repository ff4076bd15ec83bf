"""What a sweep runs: token sequences whose last rows are scored, grouped so that equal ones run together."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from probe.analysis.edit import spans_of
from probe.prompts import Prompt

MOST_TOKENS = 1024  # tokens in one forward


@dataclass(frozen=True)
class Case:
    """One sequence: rows from `first` on are scored, row ``first + t`` against ``wanted[t]``.

    `prompt` is what the model would be given; tokens behind it are what it is made to say. `against` is a second
    token, where a task compares two.
    """

    id: str
    prompt: Prompt
    tokens: tuple[int, ...]
    first: int
    wanted: tuple[int, ...]
    against: int | None = None

    @property
    def told(self) -> int:
        """Tokens of the prompt; those behind them are generated, as far as the edit can see."""
        return min(len(self.prompt), len(self.tokens))


@dataclass(frozen=True)
class Group:
    """Cases of one shape, run as one batch: no padding, so that nothing depends on the company."""

    numbers: tuple[int, ...]  # of the cases, in the order of the sweep
    cases: tuple[Case, ...]

    @property
    def first(self) -> int:
        """The first scored row."""
        return self.cases[0].first

    def tail(self, rows: int) -> "Group":
        """The first case alone, scored on its last `rows` rows at most."""
        one = self.cases[0]
        cut = max(0, self.length - one.first - rows)
        return Group(self.numbers[:1], (replace(one, first=one.first + cut, wanted=one.wanted[cut:]),))

    def head(self, tokens: int) -> "Group":
        """The first case alone, cut to its first `tokens` tokens, all of them scored on what follows them."""
        one = self.cases[0]
        kept = one.tokens[:tokens]
        wanted = (*one.tokens[1:], *one.wanted[-1:])[: len(kept)]
        given = one.prompt.truncate(min(len(one.prompt), len(kept)))
        return Group(self.numbers[:1], (Case(one.id, given, kept, 0, wanted),))

    @property
    def scored(self) -> range:
        """The scored rows."""
        return range(self.first, self.length)

    @property
    def length(self) -> int:
        """Tokens of every case."""
        return len(self.cases[0].tokens)

    @property
    def ids(self) -> Int[Tensor, "batch token"]:
        """The tokens, one row per case."""
        return torch.tensor([case.tokens for case in self.cases])

    @property
    def spans(self) -> list[dict[str, Tensor]]:
        """Spans of the prompts, as a session announces them."""
        return [spans_of(case.prompt) for case in self.cases]


def grouped(cases: Sequence[Case]) -> list[Group]:
    """Cases of the same length, prompt length and first scored row together, as many as one forward takes."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for number, case in enumerate(cases):
        found.setdefault((len(case.tokens), case.told, case.first), []).append(number)
    parts = [
        numbers[start : start + size]
        for (length, *_), numbers in found.items()
        for size in [max(1, MOST_TOKENS // length)]
        for start in range(0, len(numbers), size)
    ]
    return [Group(tuple(numbers), tuple(cases[n] for n in numbers)) for numbers in parts]


def digest(cases: Sequence[Case]) -> str:
    """sha256 over everything of the cases that can change a number."""
    total = hashlib.sha256()
    for case in cases:
        entry = [case.id, case.tokens, case.told, case.first, case.wanted, case.against]
        total.update(json.dumps(entry).encode())
        for name, flags in sorted(case.prompt.spans.items()):
            total.update(name.encode() + flags.tobytes())
    return total.hexdigest()
