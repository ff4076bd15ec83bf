"""Prompt files: every row checked, the file and the line named, and no partial result."""

import json
import os
from pathlib import Path

import pytest
from small_models import letters

from probe.errors import InputError
from probe.prompts import read_prompts, read_text


def _write(folder: Path, *rows: object) -> Path:
    path = folder / "p.jsonl"
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_prompts(tmp_path: Path) -> None:
    """Ids, answers and character spans are read; a row without id is named by file and line; blank lines pass."""
    tokenizer = letters()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    path = _write(
        tmp_path,
        {"id": "one", "text": "abcd", "spans": {"x": [1, 3], "y": [[0, 1], [3, 4]]}, "answer": "e"},
        "",
        {"messages": [{"role": "user", "content": "ab"}]},
    )
    one, two = read_prompts(path, tokenizer)
    assert (one.id, one.text, one.answer) == ("one", "abcd", "e")
    assert one.spans["x"].tolist() == [False, True, True, False]
    assert one.spans["y"].tolist() == [True, False, False, True]
    assert (two.id, two.text) == ("p:3", "ab")
    assert two.spans["turn:0:user"].all()


GOOD = {"text": "abc"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "valid dictionary"),
        ({}, "either text or messages"),
        ({"text": "a", "messages": []}, "either text or messages"),
        ({"text": 3}, "text: .*string"),
        ({"text": "a", "txt": "b"}, "txt: Extra"),
        ({"text": " "}, "empty text"),
        ({"text": "abc", "spans": {"x": [1]}}, "spans.x"),
        ({"text": "abc", "spans": {"x": [-1, 2]}}, "greater than or equal to 0"),
        ({"text": "abc", "spans": {"x": [0, 9]}}, "the text has 3"),
        ({"text": "abc", "spans": {"bos": [0, 1]}}, "'bos'; the names"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no chat template"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": "a"}], "spans": {"x": [0, 1]}},
            "turns of messages are spans",
        ),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_returned(tmp_path: Path, row: object, complaint: str) -> None:
    """The error says file, line and what is wrong with the row."""
    path = _write(tmp_path, GOOD, row, GOOD)
    with pytest.raises(InputError, match=complaint) as raised:
        read_prompts(path, letters())
    assert str(raised.value).startswith(f"{path}:2: ")
    assert "\n" not in str(raised.value)


def test_an_id_is_used_once(tmp_path: Path) -> None:
    """Two rows of one id would be mixed up in the report."""
    path = _write(tmp_path, {"id": "a", **GOOD}, {"id": "a", **GOOD})
    with pytest.raises(InputError, match=r":2: the id 'a' was used on line 1"):
        read_prompts(path, letters())


@pytest.mark.parametrize("reader", [read_text, lambda path: read_prompts(path, letters())])
def test_files_that_cannot_be_read(tmp_path: Path, reader) -> None:
    """Missing, a folder, empty, or not UTF-8: each says what it is, the last with the line."""
    with pytest.raises(InputError, match="there is none"):
        reader(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be read"):
        reader(tmp_path)
    empty = tmp_path / "empty"
    empty.write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        reader(empty)
    latin = tmp_path / "latin"
    latin.write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"latin:2: not UTF-8"):
        reader(latin)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    """A file that may not be read is an error of the call."""
    path = _write(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(path, letters())


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    """Editors that write one do not change the first word."""
    path = tmp_path / "bom"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(path) == "abc"
