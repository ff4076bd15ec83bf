"""Greater-than pairs: a span of years whose end must be later than its start (Hanna et al. 2023, arXiv:2305.00586).

"The siege lasted from the year 1732 to the year 17" → anything above 32. The corrupt prompt starts in the century's
year 01, which nearly every end is later than.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.prompts.pairs.answers import following_each
from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.pairs.slots import Draft
from probe.prompts.pairs.words import whole_words, word_list

_TEMPLATE = "The {event} lasted from the year CENTURY{tens}{ones} to the year"
_CENTURIES = range(11, 20)
_YEARS = range(100)


@dataclass(frozen=True)
class _Century:
    """How this tokenizer says the ends of spans within a century: what precedes the token that decides, and that token.

    `ends` are the years 0 to 99 that each token may open; `starts` those that have later and earlier tokens and are as
    many tokens as the year 01.
    """

    number: int
    opening: str
    ends: dict[int, list[int]]
    starts: tuple[int, ...]

    def answers(self, start: int) -> tuple[list[int], list[int]]:
        """Tokens all of whose ends are later than `start`, and those none of whose ends is."""
        later = [token for token, years in self.ends.items() if min(years) > start]
        return later, [token for token, years in self.ends.items() if max(years) <= start]


def greater_than_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs with a set of right tokens (every end that they open is later) and one of wrong tokens (none is).

    A tokenizer may say the end of the span in one token, in the two digits behind the century, or digit by digit; the
    prompt stops where its next token decides. A token that opens both later and earlier ends is in neither set.

    Marks: ``event``, ``tens`` and ``ones`` (the tokens that hold these digits of the start, perhaps the same), ``end``.

    Raises:
        InputError: this tokenizer splits the events, or no end is decided by one token.
    """
    events = whole_words("greater_than", word_list("events"), tokenizer, least=2)
    centuries = [found for number in _CENTURIES if (found := _century(number, tokenizer))]
    if not centuries:
        raise InputError(
            "pairs of greater_than were asked; this tokenizer splits or does not know years so that no single token "
            "tells a later end from an earlier one: give pairs of your own"
        )
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        century = centuries[int(generator.integers(len(centuries)))]
        event, start = str(generator.choice(events)), int(generator.choice(century.starts))
        made.append(_pair(f"greater_than:{number}", event, start, century, tokenizer))
    return PairSet("greater_than", tuple(made))


def _pair(name: str, event: str, start: int, century: _Century, tokenizer: Any) -> Pair:
    template = _TEMPLATE.replace("CENTURY", str(century.number)) + century.opening
    clean = {"event": event, "tens": str(start // 10), "ones": str(start % 10)}
    return Draft(name, template, clean, clean | {"tens": "0", "ones": "1"}).pair(
        *century.answers(start), tokenizer
    )


def _century(number: int, tokenizer: Any) -> _Century | None:
    """The century as this tokenizer says it; None where no token decides."""
    stem, unknown = "to the year", getattr(tokenizer, "unk_token_id", None)
    years = [f" {number}{year:02d}" for year in _YEARS]
    lengths = [len(ids) for ids in following_each(stem, years, tokenizer)]
    for opening in (f" {number}", "", " "):
        ends: dict[int | None, list[int]] = defaultdict(list)
        said = following_each(stem + opening, [year[len(opening) :] for year in years], tokenizer)
        for year, ids in zip(_YEARS, said, strict=True):
            ends[ids[0] if ids else None].append(year)
        if {None, unknown} & set(ends):
            continue
        found = _Century(number, opening, {token: ys for token, ys in ends.items() if token is not None}, ())
        starts = tuple(y for y in _YEARS if y > 1 and lengths[y] == lengths[1] and all(found.answers(y)))
        if starts:
            return replace(found, starts=starts)
    return None
