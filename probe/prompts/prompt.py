"""A prompt: text, its tokens, and named spans over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probe.errors import InputError, UsageError
from probe.prompts.chat import render_chat
from probe.prompts.spans import Chars, SpanLike, resolve
from probe.prompts.tokens import starts_with_bos, strings, tokenise


@dataclass(frozen=True)
class Prompt:
    """A text as the model gets it, with named spans: one bool per token.

    Every prompt has the spans ``bos`` (a beginning-of-sequence token at the front, empty where the tokenizer puts
    none), ``prompt`` (what the model is given), ``response`` (what it answered: empty unless a chat ends with the
    assistant's turn) and ``last`` (the last token). An empty span is allowed: all False.
    """

    id: str
    text: str
    tokens: tuple[int, ...]
    str_tokens: tuple[str, ...]
    spans: Mapping[str, np.ndarray] = field(compare=False, repr=False)
    answer: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = field(default=None, repr=False, compare=False)

    @property
    def bos(self) -> bool:
        """Whether the prompt starts with the tokenizer's beginning-of-sequence token."""
        return bool(self.spans["bos"].any())

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(
        cls,
        text: str,
        tokenizer: Any,
        *,
        spans: Mapping[str, SpanLike] | None = None,
        id: str | None = None,  # noqa: A002 -- the field's name
        answer: str | None = None,
        special: bool = True,
    ) -> "Prompt":
        """A prompt from plain text; the chat template is never applied.

        Args:
            text: the text.
            tokenizer: a transformers tokenizer.
            spans: by name, ``(start, stop)`` in tokens, a list of such, a bool array over tokens, or `Chars`.
            id: how reports call the prompt; default ``prompt``.
            answer: what the model should say, where an experiment needs it.
            special: let the tokenizer add its special tokens (BOS) as it does by default.

        Raises:
            InputError: the text is empty, or a span does not fit it.
        """
        if not text.strip():
            raise InputError("an empty text was given; give some text")
        coded = tokenise(text, tokenizer, special=special)
        flags = resolve(spans or {}, text, coded.offsets, len(coded.tokens))
        flags |= _reserved(len(coded.tokens), starts_with_bos(coded.tokens, tokenizer))
        return cls(id or "prompt", text, coded.tokens, coded.str_tokens, flags, answer, coded.offsets)

    @classmethod
    def of_tokens(
        cls,
        tokens: Sequence[int],
        tokenizer: Any | None = None,
        *,
        spans: Mapping[str, SpanLike] | None = None,
        id: str | None = None,  # noqa: A002 -- the field's name
    ) -> "Prompt":
        """A prompt from token ids as they are; without a tokenizer its strings are the ids."""
        ids = tuple(int(token) for token in tokens)
        if not ids:
            raise InputError("a prompt of no tokens was given; give at least one")
        pieces = tuple(map(str, ids)) if tokenizer is None else strings(ids, tokenizer)
        flags = resolve(spans or {}, "", None, len(ids)) | _reserved(
            len(ids), starts_with_bos(ids, tokenizer)
        )
        return cls(id or "prompt", "".join(pieces), ids, pieces, flags)

    @classmethod
    def from_messages(
        cls,
        messages: Sequence[Mapping[str, str]],
        tokenizer: Any,
        *,
        id: str | None = None,  # noqa: A002 -- the field's name
        answer: str | None = None,
    ) -> "Prompt":
        """A prompt from chat messages, through the tokenizer's chat template.

        Each turn's content is a span ``turn:0:user``, ``turn:1:assistant``, …. Where the last turn is the assistant's,
        its content is the span ``response``; otherwise the template's opening of the assistant's turn is appended.

        Raises:
            InputError: no chat template, a message without role and content, or a template that hides a content.
        """
        chat = render_chat(messages, tokenizer)
        coded = tokenise(chat.text, tokenizer, special=False)
        turns: dict[str, SpanLike] = {
            f"turn:{number}:{message['role']}": Chars(where)
            for number, (message, where) in enumerate(zip(messages, chat.turns, strict=True))
        }
        flags = resolve(turns, chat.text, coded.offsets, len(coded.tokens))
        response = flags[list(turns)[-1]] if messages[-1]["role"] == "assistant" else None
        flags |= _reserved(len(coded.tokens), starts_with_bos(coded.tokens, tokenizer), response)
        return cls(id or "prompt", chat.text, coded.tokens, coded.str_tokens, flags, answer, coded.offsets)

    def truncate(self, max_tokens: int) -> "Prompt":
        """The first `max_tokens` tokens, spans cut with them; the prompt itself where it is no longer.

        Raises:
            UsageError: `max_tokens` is below 1.
        """
        if max_tokens < 1:
            raise UsageError(f"{max_tokens} tokens were asked; keep at least 1")
        if max_tokens >= len(self):
            return self
        offsets = None if self.offsets is None else self.offsets[:max_tokens]
        cut = "".join(self.str_tokens[:max_tokens])
        text = cut if offsets is None else self.text[: max(stop for _, stop in offsets)]
        flags = {name: flag[:max_tokens] for name, flag in self.spans.items()}
        flags["last"] = np.arange(max_tokens) == max_tokens - 1
        return replace(
            self,
            text=text,
            tokens=self.tokens[:max_tokens],
            str_tokens=self.str_tokens[:max_tokens],
            spans=flags,
            offsets=offsets,
        )


def _reserved(length: int, bos: bool, response: np.ndarray | None = None) -> dict[str, np.ndarray]:
    index = np.arange(length)
    answered = np.zeros(length, dtype=bool) if response is None else response.copy()
    return {"bos": (index == 0) & bos, "prompt": ~answered, "response": answered, "last": index == length - 1}
