"""Documents to score, read as a stream: what each of them is, and which reader a file has."""

import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from probe.errors import InputError


@dataclass(frozen=True)
class Document:
    """One text of a data file; `index` is its place in the file, from 0."""

    index: int
    id: str
    text: str


@dataclass(frozen=True)
class DataRecord:
    """Which data were read: the file's name, the sha256 of its bytes, and how many documents it holds."""

    name: str
    sha256: str
    documents: int


@runtime_checkable
class Source(Protocol):
    """A file of documents, which is never in memory as a whole."""

    def check(self) -> DataRecord:
        """Read everything once and keep nothing of it; raises `InputError` at the first row that is no document."""

    def read(self, first: int) -> Iterator[Document]:
        """The documents from index `first` on, in order."""


def in_shards(
    documents: Iterator[Document], size: int, todo: Container[int]
) -> Iterator[tuple[int, list[Document]]]:
    """Documents in groups of `size` by their index, with the group's number; only the groups of `todo`."""
    for number, group in itertools.groupby(documents, lambda one: one.index // size):
        if number in todo:
            yield number, list(group)


def document(row: dict[str, Any], where: str, index: int, default_id: str) -> Document:
    """A row with ``text`` and maybe ``id`` as a document; raises `InputError` naming `where` on anything else."""
    text, name = row.get("text"), row.get("id")
    if not isinstance(text, str):
        found = "none" if text is None else f"a {type(text).__name__}"
        raise InputError(f'{where}: a text was asked, found {found}: write {{"text": "..."}}')
    if name is not None and (not isinstance(name, str | int) or isinstance(name, bool)):
        raise InputError(f"{where}: an id was asked, found a {type(name).__name__}: write text or a number")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: the text is not Unicode at character {error.start} (half of a pair): mend it"
        ) from error
    return Document(index, default_id if name is None else str(name), text)


def check_file(path: Path) -> None:
    """Raise `InputError` unless a file of documents can be opened."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError as error:
        raise InputError(f"the data {path} were asked; there is no such file: check the path") from error
    except OSError as error:
        raise InputError(f"the data {path} were asked; they cannot be read ({error.strerror})") from error
