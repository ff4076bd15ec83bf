"""Documents from a Parquet file with a column ``text``, and maybe ``id``, row group by row group."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probe.analysis.scoring.arrow import arrow, parquet
from probe.analysis.scoring.documents import DataRecord, Document, document
from probe.errors import InputError

_ROWS = 256  # rows that are turned into texts at a time


class ParquetRows:
    """A ``.parquet`` file; other columns are not read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> DataRecord:
        """Read both columns once; raises `InputError` naming the first row that is no document."""
        with self.path.open("rb") as file:
            total = hashlib.file_digest(file, "sha256")
        count = sum(1 for _ in self.read(0))
        if not count:
            raise InputError(f"the data {self.path} were asked; the file has no rows: give some documents")
        return DataRecord(self.path.name, total.hexdigest(), count)

    def read(self, first: int) -> Iterator[Document]:
        """The documents from index `first` on; row groups before it are not read."""
        with self._opened() as file:
            columns = self._columns(file)
            groups, index = self._groups(file, first)
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=groups, columns=columns):
                for row in batch.to_pylist():
                    if index >= first:
                        where = f"{self.path}, row {index + 1}"
                        yield document(row, where, index, f"{self.path.stem}:{index + 1}")
                    index += 1

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file; whatever pyarrow says about it becomes an `InputError`."""
        try:
            with parquet().ParquetFile(self.path, pre_buffer=False) as file:
                yield file
        except (arrow().ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the data {self.path} were asked; they are no Parquet file that can be read ({reason}): write it again"
            ) from error

    def _columns(self, file: Any) -> list[str]:
        names = file.schema_arrow.names
        if "text" not in names:
            raise InputError(
                f"the data {self.path} were asked; their columns are {', '.join(names)}: name one of them text"
            )
        return [name for name in ("id", "text") if name in names]

    @staticmethod
    def _groups(file: Any, first: int) -> tuple[list[int], int]:
        """The row groups that hold rows from `first` on, and the index of their first row."""
        start = 0
        for number in range(file.num_row_groups):
            stop = start + file.metadata.row_group(number).num_rows
            if stop > first:
                return list(range(number, file.num_row_groups)), start
            start = stop
        return [], start
