"""Templates with slots: two fillings of one template become a pair whose tokens differ in the changed slots alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.prompts.pairs.answers import only_token
from probe.prompts.pairs.pair import Pair
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars, Range


@dataclass(frozen=True)
class Filled:
    """A text made from a template, and the characters ``[start, stop)`` of each of its slots."""

    text: str
    places: Mapping[str, Range]


def fill(template: str, words: Mapping[str, str]) -> Filled:
    """A template with a word in every slot.

    >>> fill("the {object} is", {"object": "cup"})
    Filled(text='the cup is', places={'object': (4, 7)})
    """
    text, places = "", {}
    for before, slot, _, _ in Formatter().parse(template):
        text += before
        if slot is not None:
            places[slot] = (len(text), len(text) + len(words[slot]))
            text += words[slot]
    return Filled(text, places)


@dataclass(frozen=True)
class Draft:
    """One template and its two fillings, not yet tokens.

    Every slot of the template becomes a mark, the last token of its word; words for other slots are left out.
    """

    id: str
    template: str
    clean: Mapping[str, str]
    corrupt: Mapping[str, str]

    @property
    def text(self) -> str:
        """The clean prompt's text."""
        return fill(self.template, self.clean).text

    def answered(self, right: str, wrong: str, tokenizer: Any) -> Pair:
        """The pair with one answer on each side, as it is written after the prompt (with its space).

        Raises:
            InputError: an answer is several tokens or none that this tokenizer knows, or as in `pair`.
        """
        (one, other) = (only_token(self.text, answer, tokenizer) for answer in (right, wrong))
        return self.pair((one,), (other,), tokenizer, answers=(right, wrong))

    def pair(
        self,
        right: Sequence[int],
        wrong: Sequence[int],
        tokenizer: Any,
        answers: tuple[str | None, str | None] = (None, None),
    ) -> Pair:
        """The pair with sets of tokens as its answers.

        Raises:
            InputError: the prompts differ in their number of tokens, or in a token outside the changed slots.
        """
        clean = self._prompt(self.clean, self.id, answers[0], tokenizer)
        corrupt = self._prompt(self.corrupt, f"{self.id}:corrupt", answers[1], tokenizer)
        slots = fill(self.template, self.clean).places
        marks = {slot: int(np.flatnonzero(clean.spans[slot])[-1]) for slot in slots}
        pair = Pair(self.id, clean, corrupt, tuple(right), tuple(wrong), marks)
        self._check(pair, list(slots))
        return pair

    def _prompt(self, words: Mapping[str, str], name: str, answer: str | None, tokenizer: Any) -> Prompt:
        filled = fill(self.template, words)
        spans = {slot: Chars(place) for slot, place in filled.places.items()}
        return Prompt.of(filled.text, tokenizer, spans=spans, id=name, answer=answer)

    def _check(self, pair: Pair, slots: list[str]) -> None:
        changed = [slot for slot in slots if self.clean[slot] != self.corrupt[slot]]
        differs = np.array(pair.clean.tokens) != np.array(pair.corrupt.tokens)
        stray = differs & ~np.any([pair.clean.spans[slot] for slot in changed], axis=0)
        moved = [slot for slot in slots if (pair.clean.spans[slot] != pair.corrupt.spans[slot]).any()]
        if stray.any() or moved:
            raise InputError(
                f"pair {self.id!r} changes {changed}; with this tokenizer the tokens at "
                f"{np.flatnonzero(stray).tolist()} change too and {moved} move: choose words of as many tokens"
            )
