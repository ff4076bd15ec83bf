"""Chat messages to one text, and where in it each turn's content lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from probe.errors import InputError


@dataclass(frozen=True)
class Chat:
    """The rendered text and, per message, the characters ``[start, stop)`` of its content."""

    text: str
    turns: tuple[tuple[int, int], ...]


def render_chat(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> Chat:
    """Apply the tokenizer's chat template and find each content in the result.

    Raises:
        InputError: no chat template, malformed messages, or a template that changes a content.
    """
    if not messages:
        raise InputError("a chat of no messages was given; give at least one")
    for number, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError(
                f"message {number} was given as {dict(message)!r}; give a role and a content, both text"
            )
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "chat messages were given; this tokenizer has no chat template: give plain text instead"
        )
    contents = [message["content"] for message in messages]
    text = _render(messages, contents, tokenizer)
    turns = _by_markers(messages, contents, text, tokenizer) or _by_search(contents, text)
    if turns is None:
        raise InputError(
            "the chat template changes what a message says; its turns cannot be found: give plain text"
        )
    return Chat(text, tuple(turns))


def _render(messages: Sequence[Mapping[str, str]], contents: Sequence[str], tokenizer: Any) -> str:
    from jinja2 import TemplateError

    turns = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
    opening = messages[-1]["role"] != "assistant"
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opening))
    except (TemplateError, ValueError) as error:
        raise InputError(f"the chat template refuses these messages: {error}") from error


def _by_markers(
    messages: Sequence[Mapping[str, str]], contents: Sequence[str], text: str, tokenizer: Any
) -> list[tuple[int, int]] | None:
    """Render marks in place of the contents: what lies between the marks is the template's own text."""
    marks = [f"\u2983{number}\u2984" for number in range(len(contents))]
    rendered = _render(messages, marks, tokenizer)
    places = [rendered.find(mark) for mark in marks]
    if -1 in places or places != sorted(places):
        return None
    ends = [0, *(place + len(mark) for place, mark in zip(places, marks, strict=True))]
    between = [rendered[start:stop] for start, stop in zip(ends, [*places, len(rendered)], strict=True)]
    for clean in (str, str.strip):  # some templates strip what a message says
        said = [clean(content) for content in contents]
        if text == between[0] + "".join(a + b for a, b in zip(said, between[1:], strict=True)):
            edges = [0]
            for piece in [x for pair in zip(between, said, strict=False) for x in pair]:
                edges.append(edges[-1] + len(piece))
            return list(pairwise(edges))[1::2]
    return None


def _by_search(contents: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    """Each content's next occurrence, for templates whose own text depends on what is said."""
    turns, cursor = [], 0
    for content in contents:
        said = content.strip()
        start = text.find(said, cursor)
        if start < 0:
            return None
        cursor = start + len(said)
        turns.append((start, cursor))
    return turns
