"""Documents from JSON lines: one object with ``text``, and maybe ``id``, a line."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from probe.analysis.scoring.documents import DataRecord, Document, document
from probe.errors import InputError


class JsonLines:
    """A ``.jsonl`` file; other keys of its rows are left alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> DataRecord:
        """Read every line once; raises `InputError` naming the first that is empty or no document."""
        total, count = hashlib.sha256(), 0
        with self.path.open("rb") as file:
            for line in file:
                total.update(line)
                self._document(count, line)
                count += 1
        if not count:
            raise InputError(f"the data {self.path} were asked; the file is empty: write one object a line")
        return DataRecord(self.path.name, total.hexdigest(), count)

    def read(self, first: int) -> Iterator[Document]:
        """The documents from index `first` on; lines before it are not parsed."""
        with self.path.open("rb") as file:
            for index, line in enumerate(file):
                if index >= first:
                    yield self._document(index, line)

    def _document(self, index: int, line: bytes) -> Document:
        where = f"{self.path}, line {index + 1}"
        line = line.removeprefix(codecs.BOM_UTF8) if index == 0 else line
        if not line.strip():
            raise InputError(f"{where}: a document was asked, found an empty line: delete it")
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: a JSON object was asked, found none ({error}): mend it") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON object was asked, found a {type(row).__name__}: mend it")
        return document(row, where, index, f"{self.path.stem}:{index + 1}")
