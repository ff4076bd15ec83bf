"""Sentences of a text as character ranges, and as stretches of a prompt's tokens."""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from probe.prompts.prompt import Prompt
from probe.prompts.spans import Range

SHORTEST = 10  # characters; shorter pieces are merged

# What ends a sentence: marks, the quotes and brackets that close behind them, and line breaks.
_END = re.compile(r"[.!?:]+[\"'”’»)\]}*]*\n*|\n+")
_LIST_NUMBER = re.compile(r"\s*\d+\.")


@dataclass(frozen=True)
class Sentence:
    """A sentence and the tokens ``[start, stop)`` of its prompt that it is made of."""

    text: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def split_sentences(text: str, shortest: int = SHORTEST) -> list[Range]:
    """Character ranges of sentences; joined they are the text, and none is empty.

    A sentence ends after ``.``, ``!``, ``?``, ``:`` or a line break. A single ``.`` or ``:`` between two letters or
    digits ends none (decimals, times, addresses), nor does the point of a number that opens a line (list numbers).
    White space after the end belongs to the next sentence, line breaks to the one before. A piece of fewer than
    `shortest` characters, outer white space not counted, is merged into the next one, the last into the one before.

    >>> text = "It is 3.5 km. 2. Why so far? The road bends."
    >>> [text[start:stop] for start, stop in split_sentences(text)]
    ['It is 3.5 km.', ' 2. Why so far?', ' The road bends.']
    """
    if not text:
        return []
    cuts = [0]
    for match in _END.finditer(text):
        end = match.end()
        if _ends(text, match) and end < len(text) and len(text[cuts[-1] : end].strip()) >= shortest:
            cuts.append(end)
    cuts.append(len(text))
    if len(cuts) > 2 and len(text[cuts[-2] :].strip()) < shortest:
        del cuts[-2]
    return list(pairwise(cuts))


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether marks end a sentence, or stand within a word or behind a list number."""
    start, stop, mark = match.start(), match.end(), match[0]
    before, after = text[max(0, start - 1) : start], text[stop : stop + 1]
    if mark in (".", ":") and before.isalnum() and after.isalnum():
        return False
    line = text.rfind("\n", 0, start) + 1
    return not (mark == "." and _LIST_NUMBER.fullmatch(text, line, stop))


def sentences(
    prompt: Prompt, start: int = 0, stop: int | None = None, shortest: int = SHORTEST
) -> list[Sentence]:
    """The sentences of tokens ``[start, stop)`` of a prompt: every one of these tokens is in one sentence.

    A token belongs to the sentence of its first character that is no white space; one of white space alone, or of no
    character, to that of its first character. A sentence that no token begins in is merged into its neighbours' tokens.
    """
    stop = len(prompt) if stop is None else stop
    offsets = _offsets(prompt)[start:stop]
    first = min((a for a, b in offsets if b > a), default=0)
    last = max((b for _, b in offsets), default=0)
    ranges = split_sentences(prompt.text[first:last], shortest)
    if not ranges or not offsets:
        return []
    begins = np.array([first + a for a, _ in ranges])
    places = [_place(prompt.text, token) for token in offsets]
    owner = np.maximum.accumulate(np.searchsorted(begins, places, side="right").clip(1) - 1)
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(offsets)]
    return [
        Sentence(_text(prompt.text, offsets[a:b]), start + a, start + b) for a, b in pairwise(edges) if b > a
    ]


def _place(text: str, token: Range) -> int:
    """Where a token's first visible character stands."""
    piece = text[token[0] : token[1]]
    blank = len(piece) - len(piece.lstrip())
    return token[0] + (blank if blank < len(piece) else 0)


def _text(text: str, tokens: list[Range]) -> str:
    covered = [(a, b) for a, b in tokens if b > a]
    return text[covered[0][0] : covered[-1][1]] if covered else ""


def _offsets(prompt: Prompt) -> list[Range]:
    """The characters of every token; where the tokenizer does not tell, tokens are taken to follow one another."""
    if prompt.offsets is not None:
        return list(prompt.offsets)
    ends = np.cumsum([len(one) for one in prompt.str_tokens]).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))
