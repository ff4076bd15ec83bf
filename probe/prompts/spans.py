"""Named spans: from character ranges, token ranges or flags to one flag per token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.errors import InputError

RESERVED = ("bos", "prompt", "response", "last")

Range = tuple[int, int]
Offsets = Sequence[Range]


@dataclass(frozen=True)
class Chars:
    """Character ranges ``[start, stop)`` of a text; a span may have several, and may be empty.

    >>> Chars((0, 5), (9, 12)).ranges
    ((0, 5), (9, 12))
    """

    ranges: tuple[Range, ...]

    def __init__(self, *ranges: Range) -> None:
        object.__setattr__(self, "ranges", tuple((int(start), int(stop)) for start, stop in ranges))


# (start, stop) in tokens, a list of such, one flag per token, or characters of the text.
SpanLike = Range | Sequence[Range] | np.ndarray | Chars


def resolve(
    spans: Mapping[str, SpanLike], text: str, offsets: Offsets | None, length: int
) -> dict[str, np.ndarray]:
    """One flag per token for every span.

    Raises:
        InputError: a reserved or empty name, a range outside the text, or characters where a tokenizer gives none.
    """
    flags = {}
    for name, span in spans.items():
        if name in RESERVED or not name:
            raise InputError(
                f"a span was named {name!r}; the names {', '.join(RESERVED)} are kept: choose another"
            )
        if isinstance(span, Chars):
            flags[name] = _from_chars(name, span, text, offsets)
        elif isinstance(span, np.ndarray):
            flags[name] = _from_flags(name, span, length)
        else:
            ranges = [span] if span and isinstance(span[0], int) else list(span)
            flags[name] = _from_tokens(name, ranges, length)
    return flags


def _from_chars(name: str, span: Chars, text: str, offsets: Offsets | None) -> np.ndarray:
    if offsets is None:
        raise InputError(
            f"the span {name!r} was given in characters; this tokenizer does not say which characters a token covers: "
            "give (start, stop) in tokens, or use a fast tokenizer"
        )
    for start, stop in span.ranges:
        if not 0 <= start <= stop <= len(text):
            raise InputError(
                f"the span {name!r} was given as characters [{start}, {stop}); the text has {len(text)}: "
                "give 0 <= start <= stop <= its length"
            )
    return np.array(
        [any(_covers(text, token, span) for span in span.ranges) for token in offsets], dtype=bool
    )


def _covers(text: str, token: Range, span: Range) -> bool:
    """A token is in a span when they share a character; white space that a word drags along does not count."""
    start, stop = max(token[0], span[0]), min(token[1], span[1])
    if start >= stop:
        return False
    return bool(text[start:stop].strip()) or not text[token[0] : token[1]].strip()


def _from_flags(name: str, span: np.ndarray, length: int) -> np.ndarray:
    if span.dtype != np.bool_ or span.shape != (length,):
        raise InputError(
            f"the span {name!r} was given as {span.dtype} of shape {span.shape}; the prompt has {length} tokens: "
            f"give a bool array of shape ({length},)"
        )
    return span.copy()


def _from_tokens(name: str, ranges: Sequence[object], length: int) -> np.ndarray:
    flags = np.zeros(length, dtype=bool)
    for item in ranges:
        match item:
            case (int(start), int(stop)) if 0 <= start <= stop <= length:
                flags[start:stop] = True
            case _:
                raise InputError(
                    f"the span {name!r} was given as tokens {item!r}; the prompt has {length}: "
                    "give (start, stop) with 0 <= start <= stop <= its length"
                )
    return flags
