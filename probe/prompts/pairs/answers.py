"""Answers as tokens: what follows a text when the answer is written behind it."""

from collections.abc import Sequence
from typing import Any

from probe.errors import InputError


def only_token(text: str, answer: str, tokenizer: Any) -> int:
    """The one token that `answer` is where it follows `text`.

    Raises:
        InputError: it is several tokens there (the circuit of its first one would be another circuit), merges with the
            text's last one, or is unknown to this tokenizer.
    """
    found = following(text, answer, tokenizer)
    if len(found) != 1 or found[0] == getattr(tokenizer, "unk_token_id", None):
        state = f"it is {len(found)} tokens" if found else "it merges with the text's last token"
        state = "it does not know it" if len(found) == 1 else state
        raise InputError(
            f"the answer {answer!r} behind {text[-20:]!r} was asked; for this tokenizer {state}: choose an answer that "
            "is one token (mind the space before it)"
        )
    return found[0]


def following(text: str, more: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that `more` adds to those of `text`; none where it changes them."""
    return following_each(text, [more], tokenizer)[0]


def following_each(text: str, mores: Sequence[str], tokenizer: Any) -> list[tuple[int, ...]]:
    """`following` for many texts at once."""
    coded = tokenizer([text, *(text + more for more in mores)], add_special_tokens=False)["input_ids"]
    before, *wholes = (tuple(ids) for ids in coded)
    return [whole[len(before) :] if whole[: len(before)] == before else () for whole in wholes]


def known_tokens(said: Sequence[tuple[int, ...]], tokenizer: Any) -> list[bool]:
    """Which texts are one token each that this tokenizer knows and that no earlier one of them is."""
    seen: set[tuple[Any, ...]] = {(getattr(tokenizer, "unk_token_id", None),)}
    known = []
    for ids in said:
        known.append(len(ids) == 1 and ids not in seen)
        seen.add(ids)
    return known
