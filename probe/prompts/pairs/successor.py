"""Successor pairs: three items of an ordinal list, and the one that comes next.

The lists are those of Gould et al. 2024 (arXiv:2312.09230): numbers, number words, days, months, letters, Roman
numerals and the like. The corrupt prompt shows the same list from another place on.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.prompts.data import rows
from probe.prompts.pairs.answers import following_each, known_tokens
from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.pairs.slots import Draft

_LEAD = "List: "
_SLOTS = ("first", "second", "third")


@dataclass(frozen=True)
class Ordinals:
    """Items in their order, each one token behind the separator; a cyclic list starts again behind its last."""

    kind: str
    items: tuple[str, ...]
    between: str
    cyclic: bool

    @property
    def starts(self) -> int:
        """How many places three items and the one that follows them can start at."""
        return len(self.items) if self.cyclic else len(self.items) - len(_SLOTS)

    def shown(self, start: int) -> dict[str, str]:
        """Three items from a place on, by slot."""
        return {slot: self.items[(start + i) % len(self.items)] for i, slot in enumerate(_SLOTS)}

    def answer(self, start: int) -> str:
        """The item that follows these three, with what separates it from the last comma."""
        return self.between[1:] + self.items[(start + len(_SLOTS)) % len(self.items)]


def successor_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs of two places of one list, the lists in turn; wrong is the item that follows in the corrupt prompt.

    Marks: ``first``, ``second``, ``third`` (the items) and ``end`` (the comma behind the third).

    Raises:
        InputError: this tokenizer keeps no list's items whole.
    """
    lists = ordinals(tokenizer)
    generator = np.random.default_rng(seed)
    made = [_pair(f"successor:{n}", lists[n % len(lists)], generator, tokenizer) for n in range(count)]
    return PairSet("successor", tuple(made))


def ordinals(tokenizer: Any) -> list[Ordinals]:
    """The shipped lists, each cut to its longest run of items that this tokenizer keeps whole; two starts at least.

    Raises:
        InputError: no list has such a run.
    """
    found = [_whole(row, tokenizer) for row in rows("ordinals.jsonl")]
    lists = [one for one in found if one.starts >= 2]
    if not lists:
        raise InputError(
            f"pairs of successor were asked; this tokenizer splits or does not know the items of "
            f"{', '.join(one.kind for one in found)}: give pairs of your own"
        )
    return lists


def _whole(row: dict[str, Any], tokenizer: Any) -> Ordinals:
    items, between = row["items"], row["between"]
    said = following_each(f"{_LEAD}{items[0]},", [between[1:] + item for item in items], tokenizer)
    whole = known_tokens(said, tokenizer)
    runs = [[i for i, _ in run] for kept, run in groupby(enumerate(whole), key=lambda one: one[1]) if kept]
    longest = max(runs, key=len, default=[])
    return Ordinals(
        row["kind"], tuple(items[i] for i in longest), between, row["cyclic"] and len(longest) == len(items)
    )


def _pair(name: str, one: Ordinals, generator: np.random.Generator, tokenizer: Any) -> Pair:
    start, other = generator.choice(one.starts, 2, replace=False).tolist()
    template = _LEAD + one.between.join(f"{{{slot}}}" for slot in _SLOTS) + ","
    draft = Draft(f"{name}:{one.kind}", template, one.shown(start), one.shown(other))
    return draft.answered(one.answer(start), one.answer(other), tokenizer)
