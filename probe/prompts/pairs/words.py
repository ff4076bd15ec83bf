"""Words that fill the slots of pairs: those that this tokenizer keeps whole."""

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from probe.errors import InputError
from probe.prompts.data import data_dir
from probe.prompts.pairs.answers import known_tokens


@cache
def word_list(kind: str) -> tuple[str, ...]:
    """The shipped words of a kind (``colors``, ``objects``, …), in the file's order."""
    return tuple(_lists()[kind])


def frames() -> list[tuple[str, str]]:
    """What may stand before and behind a statement that is not so."""
    return [(before, behind) for before, behind in _lists()["framings"]]


@cache
def _lists() -> dict[str, list[Any]]:
    lists: dict[str, list[Any]] = json.loads((data_dir() / "pair_words.json").read_text(encoding="utf-8"))
    return lists


def whole_words(task: str, words: Iterable[str], tokenizer: Any, *, least: int) -> list[str]:
    """The words that are one known token behind a space, each token once.

    Raises:
        InputError: fewer than `least` are; the message names those that this tokenizer splits.
    """
    words = list(words)
    coded = tokenizer([" " + word for word in words], add_special_tokens=False)["input_ids"]
    known = known_tokens([tuple(ids) for ids in coded], tokenizer)
    kept = [word for word, whole in zip(words, known, strict=True) if whole]
    split = [word for word, whole in zip(words, known, strict=True) if not whole]
    if len(kept) < least:
        more = f" and {len(split) - 6} more" if len(split) > 6 else ""
        raise InputError(
            f"pairs of {task} were asked, which need {least} words of a kind; this tokenizer keeps {len(kept)} "
            f"whole and splits or does not know {', '.join(split[:6])}{more}: give pairs of your own"
        )
    return kept
