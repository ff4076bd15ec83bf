"""Which reader a file of documents has."""

from collections.abc import Callable
from pathlib import Path

from probe.analysis.scoring.documents import Source, check_file
from probe.analysis.scoring.jsonlines import JsonLines
from probe.analysis.scoring.parquet_rows import ParquetRows
from probe.errors import InputError

_READERS: dict[str, Callable[[Path], Source]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": ParquetRows,
}


def open_documents(data: object) -> Source:
    """The reader of a ``.jsonl`` or ``.parquet`` file; raises `InputError` on anything else. Reads nothing yet."""
    if not isinstance(data, str | Path):
        raise InputError(f"data of type {type(data).__name__} were given; give the path of a file")
    path = Path(data).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"the data {path} were asked; their name ends in none of {', '.join(_READERS)}: give such a file"
        )
    check_file(path)
    return reader(path)
