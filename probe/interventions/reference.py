"""The reference that `mean`, `resample`, `mean_by_token` and `static` take their values from."""

import random
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from probe.errors import InputError, UsageError
from probe.interventions.feeds import Feed, feeds_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.corpus import train_text

COUNT = 64
TOKENS = 256
SEED = 0
LIMIT = 4 * 2**30  # bytes of a reference's values that are kept at most, where all of them are
_NAMED = re.compile(r"<\d+ given>")
_CHARACTERS = 12  # per token, at most: enough text to cut so many tokens from


def reference(
    over: Sequence[object] | None, loaded: LoadedModel, what: str, *, exactly: int | None = None
) -> list[Feed]:
    """The forwards of a reference: the user's own prompts, or 64 windows of 256 tokens of the shipped train text.

    `exactly` cuts every sequence to as many tokens, and refuses shorter ones.

    Raises:
        UsageError: no `over` for a model without a tokenizer, or an `over` that is no list of prompts.
        InputError: sequences shorter than `exactly`, or longer than the model has positions.
    """
    if over is not None:
        return feeds_of(over, loaded, f"{what}: over", exactly=exactly)
    if loaded.tokenizer is None:
        raise UsageError(
            f"{what} was asked without over=; {loaded.name} has no tokenizer to read the shipped text with: give "
            "over=[token tensors or model inputs]"
        )
    size = exactly or min(TOKENS, loaded.max_positions or TOKENS)
    return feeds_of(windows(loaded, size), loaded, f"{what}: shipped text", exactly=exactly)


def windows(loaded: LoadedModel, size: int, count: int = COUNT, seed: int = SEED) -> list[Prompt]:
    """`count` windows of `size` tokens of the shipped train text, each from a sentence's start, drawn with `seed`.

    Special tokens are those that the tokenizer puts by itself, as in every prompt.

    Raises:
        InputError: the text is too short for windows of this size.
    """
    text = train_text()
    room = size * _CHARACTERS
    if room * 2 > len(text):
        raise InputError(
            f"reference windows of {size} tokens were asked; the shipped text has room for "
            f"{len(text) // (2 * _CHARACTERS)}: give over=[...]"
        )
    draw = random.Random(f"reference/{seed}")  # noqa: S311 -- not a secret
    prompts = []
    for number in range(count):
        start = text.index(". ", draw.randrange(len(text) - room - 2000)) + 2
        prompt = Prompt.of(text[start : start + room], loaded.tokenizer, id=f"reference:{number}")
        prompts.append(prompt.truncate(size))
    return prompts


def notes_of(feeds: Sequence[Feed], what: str) -> tuple[str, ...]:
    """What a reader must know about a reference."""
    if not any(feed.start_only for feed in feeds):
        return ()
    return (
        f"{what}: the reference gave the decoder its start token alone, so the values of its layers are that one "
        "row's; give over=[mappings with decoder_input_ids] for others",
    )


def over_text(over: tuple[object, ...] | None) -> str | None:
    """How names tell that the user gave the reference: they cannot hold it."""
    return None if over is None else f"<{len(over)} given>"


def as_over(over: Sequence[object] | None, what: str) -> tuple[object, ...] | None:
    """`over` as a tuple; raises `UsageError` unless a list with something in it."""
    if over is None:
        return None
    if isinstance(over, str | Prompt | Tensor | Mapping) or not isinstance(over, Sequence) or not len(over):
        raise UsageError(
            f"{what} with over={type(over).__name__} was asked; give a list of texts, Prompts, token tensors or "
            "model inputs"
        )
    if any(isinstance(one, str) and _NAMED.fullmatch(one) for one in over):
        raise UsageError(
            f"{what} was asked by a name that holds no reference ({over[0]}); give over=[...] itself"
        )
    return tuple(over)
