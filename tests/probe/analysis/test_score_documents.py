"""Documents as a stream: both file forms, any start, in shards, and what is refused by file and line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.analysis.scoring.batches import batches
from probe.analysis.scoring.documents import Document, in_shards
from probe.analysis.scoring.reading import open_documents
from probe.errors import InputError

ROWS = [{"id": f"doc {n}", "text": f"text {n}\nand ünicode"} for n in range(10)]


def as_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def as_parquet(path: Path) -> Path:
    table = pa.Table.from_pylist([{**row, "other": [1, 2]} for row in ROWS])
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize(("make", "name"), [(as_jsonl, "docs.jsonl"), (as_parquet, "docs.parquet")])
def test_both_forms_give_the_same_documents_from_any_start(make, name: str, tmp_path: Path) -> None:
    """Index, id and text, in order."""
    source = open_documents(make(tmp_path / name))
    assert source.check().documents == 10
    for first in range(11):
        found = list(source.read(first))
        assert [one.index for one in found] == list(range(first, 10))
        assert [{"id": one.id, "text": one.text} for one in found] == ROWS[first:]


def test_row_groups_that_are_done_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run opens the group of its first document and those after it."""
    asked = []
    known = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, **how: object) -> Iterator[pa.RecordBatch]:
        asked.append(how["row_groups"])
        return known(self, **how)

    source = open_documents(as_parquet(tmp_path / "docs.parquet"))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    next(source.read(7))
    assert asked == [[2, 3]]


def test_documents_without_an_id_are_called_by_their_line(tmp_path: Path) -> None:
    """File and line; a number is an id too; a byte-order mark is dropped."""
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "more": 1}\n{"text": "b", "id": 7}')
    assert [one.id for one in open_documents(path).read(0)] == ["docs:1", "7"]


@given(count=st.integers(0, 30), size=st.integers(1, 7), done=st.sets(st.integers(0, 30)))
def test_shards_hold_every_missing_document_once(count: int, size: int, done: set[int]) -> None:
    """The groups that are asked, whole and in order, and no other."""
    documents = [Document(n, str(n), "") for n in range(count)]
    todo = set(range(-(-count // size))) - done
    found = dict(in_shards(iter(documents), size, todo))
    assert list(found) == sorted(todo)
    for number, group in found.items():
        assert group == documents[number * size : (number + 1) * size]


def test_reading_keeps_pace_with_scoring() -> None:
    """No more documents are taken than a shard and the one that shows its end."""
    taken = []

    def stream() -> Iterator[Document]:
        for n in range(1000):
            taken.append(n)
            yield Document(n, str(n), "")

    shards = in_shards(stream(), 10, range(100))
    for number in range(5):
        assert next(shards)[0] == number
        assert len(taken) == 10 * (number + 1) + 1


@given(lengths=st.lists(st.integers(1, 40), max_size=30), budget=st.integers(1, 120), padded=st.booleans())
def test_batches_hold_everything_once_within_the_budget(
    lengths: list[int], budget: int, padded: bool
) -> None:
    """A batch above the budget is one document; without padding all lengths of a batch agree."""
    items = [[number] * length for number, length in enumerate(lengths)]
    found = list(batches(items, budget, padded=padded))
    assert sorted(one for batch in found for one in batch) == sorted(items)
    for batch in found:
        widths = [len(one) for one in batch]
        assert len(batch) == 1 or len(batch) * max(widths) <= budget
        assert padded or len(set(widths)) == 1


GOOD = b'{"text": "fine"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file is empty"),
        (GOOD + b"\n" + GOOD, "line 2: .* empty line"),
        (GOOD + b"{'text': 1}\n", "line 2: a JSON object was asked"),
        (GOOD + b"[1]\n", "line 2: .* a list"),
        (GOOD + b'{"txt": "a"}\n', "line 2: a text was asked, found none"),
        (GOOD + b'{"text": 5}\n', "line 2: a text was asked, found a int"),
        (GOOD + b'{"text": "a", "id": true}\n', "line 2: an id was asked"),
        (GOOD + b'{"text": "\xff"}\n', "line 2: byte 10 is not UTF-8"),
        (GOOD + b'{"text": "\\ud800"}\n', "line 2: .* character 0"),
        (GOOD + b'{"text": "cut off', "line 2"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(content: bytes, message: str, tmp_path: Path) -> None:
    """Before anything is scored."""
    path = tmp_path / "docs.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_documents(path).check()
    assert str(path) in str(caught.value)


def test_bad_parquet_is_refused_by_name(tmp_path: Path) -> None:
    """No Parquet, no column, no text in a row, no rows, no text at all."""
    path = tmp_path / "docs.parquet"
    cases = {
        "row 2: a text was asked, found none": pa.table({"text": ["a", None]}),
        "columns are txt": pa.table({"txt": ["a"]}),
        "row 1: a text was asked, found a int": pa.table({"text": [1]}),
        "no rows": pa.table({"text": pa.array([], pa.string())}),
    }
    for message, table in cases.items():
        pq.write_table(table, path)
        with pytest.raises(InputError, match=message):
            open_documents(path).check()
    whole = path.read_bytes()
    for broken in (b"PAR1 no", whole[:-9], b""):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"docs\.parquet"):
            open_documents(path).check()


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A folder, a missing file, another form, something else."""
    (tmp_path / "docs.csv").touch()
    (tmp_path / "folder.jsonl").mkdir()
    for data in ("docs.csv", "folder.jsonl", "missing.parquet"):
        with pytest.raises(InputError, match=data.replace(".", r"\.")):
            open_documents(tmp_path / data)
    with pytest.raises(InputError, match="list"):
        open_documents(["text"])
