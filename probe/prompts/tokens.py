"""Text to tokens with what the rest needs to know about each: its characters, its string, whether BOS was put first."""

from dataclasses import dataclass
from typing import Any

from probe.errors import InputError


@dataclass(frozen=True)
class Tokenised:
    """Token ids, one readable string per token, and the characters that each token covers (None: not known)."""

    tokens: tuple[int, ...]
    str_tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] | None


def tokenise(text: str, tokenizer: Any, *, special: bool = True) -> Tokenised:
    """Tokenise one text, with the special tokens that the tokenizer adds by itself unless `special` is False.

    Raises:
        InputError: there is no tokenizer, or no token comes out.
    """
    if tokenizer is None:
        raise InputError("text was given; this model has no tokenizer: pass (model, tokenizer), or tokens")
    fast = bool(getattr(tokenizer, "is_fast", False))
    coded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=fast, verbose=False)
    tokens = tuple(int(token) for token in coded["input_ids"])
    if not tokens:
        raise InputError(f"the text {text[:40]!r} was given; it has no tokens: give some text")
    offsets = tuple((int(a), int(b)) for a, b in coded["offset_mapping"]) if fast else None
    return Tokenised(tokens, strings(tokens, tokenizer), offsets)


def strings(tokens: tuple[int, ...], tokenizer: Any) -> tuple[str, ...]:
    """Each token as the text it stands for, its leading space included; a token of half a character shows ``�``."""
    pieces = tokenizer.convert_ids_to_tokens(list(tokens))
    plain = tokenizer.batch_decode([[token] for token in tokens], clean_up_tokenization_spaces=False)
    # Decoding a single sentencepiece token drops the space that the piece itself states.
    return tuple(
        " " + text if str(piece).startswith("▁") and not text.startswith(" ") else text
        for piece, text in zip(pieces, plain, strict=True)
    )


def starts_with_bos(tokens: tuple[int, ...], tokenizer: Any) -> bool:
    """Whether the first token is the tokenizer's beginning-of-sequence token (an encoder's ``[CLS]``)."""
    first = {getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "cls_token_id", None)} - {None}
    return bool(tokens) and tokens[0] in first
