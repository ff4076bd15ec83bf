"""Prompts and texts from files: everything is checked before anything is returned."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from probe.errors import InputError
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars


@runtime_checkable
class Named(Protocol):
    """What a row gives: something with an id."""

    @property
    def id(self) -> str:
        """What it is called in its file."""


Read = TypeVar("Read", bound=Named)

_Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: str
    content: str


class _Row(BaseModel):
    """One row of ``prompts.jsonl``."""

    model_config = ConfigDict(extra="forbid")
    id: str | None = None
    text: str | None = None
    messages: list[_Message] | None = None
    spans: dict[str, _Range | list[_Range]] = Field(default_factory=dict)
    answer: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "_Row":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        if self.messages is not None and self.spans:
            raise ValueError("spans go with text; the turns of messages are spans already")
        return self

    def prompt(self, tokenizer: Any, default_id: str) -> Prompt:
        name = self.id or default_id
        if self.messages is not None:
            turns = [{"role": turn.role, "content": turn.content} for turn in self.messages]
            return Prompt.from_messages(turns, tokenizer, id=name, answer=self.answer)
        spans = {key: Chars(*_ranges(value)) for key, value in self.spans.items()}
        return Prompt.of(self.text or "", tokenizer, spans=spans, id=name, answer=self.answer)


def _ranges(value: object) -> list[tuple[int, int]]:
    return [value] if isinstance(value, tuple) else list(value)  # type: ignore[call-overload]


def read_prompts(path: str | Path, tokenizer: Any) -> list[Prompt]:
    """The prompts of a JSON-lines file; blank lines are skipped.

    A row is ``{"id"?, "text" | "messages", "spans"?: {name: [start, stop) in characters or a list of them},
    "answer"?}``. A row without an id is called ``<file>:<line>``.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8 or without rows, or a row is wrong; the message names
            the file, the line and what is wrong, and no prompt is returned.
    """
    return read_rows(path, lambda row, name: _Row.model_validate(row).prompt(tokenizer, name))


def read_rows(path: str | Path, read: Callable[[Any, str], Read]) -> list[Read]:
    """What `read` makes of each row of a JSON-lines file; blank lines are skipped.

    Args:
        path: The file.
        read: Called with the row's plain values and the id ``<file>:<line>``, for rows that have none of their own.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8 or without rows, a row is wrong (`read` raised
            `InputError` or pydantic's `ValidationError`), or an id comes twice; the message names file and line.
    """
    found: list[Read] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            one = read(json.loads(line), f"{Path(path).stem}:{number}")
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); write one object a line"
            ) from error
        except ValidationError as error:
            raise InputError(f"{where}: {_complaint(error)}; see the form in datasets/README.md") from error
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if one.id in seen:
            raise InputError(f"{where}: the id {one.id!r} was used on line {seen[one.id]}; give each its own")
        seen[one.id] = number
        found.append(one)
    return found


def read_text(path: str | Path) -> str:
    """A UTF-8 text file, a byte-order mark dropped.

    Raises:
        InputError: the file is missing, a folder, unreadable, not UTF-8, or empty.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"the file {path} was asked; there is none: check the path") from error
    except OSError as error:
        raise InputError(
            f"the file {path} was asked; it cannot be read ({error.strerror}): give a readable file"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    if not text.strip():
        raise InputError(f"the file {path} was asked; it is empty: give some text")
    return text


def _complaint(error: ValidationError) -> str:
    parts: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
    said = (".".join(map(str, part["loc"])) + ": " + part["msg"] for part in parts[:3])
    return "; ".join(text.removeprefix(": ").replace("Value error, ", "") for text in said)
