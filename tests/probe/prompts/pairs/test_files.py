"""Files of pairs: every row checked, the file and the line named, and no partial result."""

import json
from pathlib import Path

import pytest
from small_models import letters

from probe.errors import InputError
from probe.prompts.pairs import read_pairs

GOOD = {"clean": "abc", "corrupt": "abd", "answer": "e", "wrong": "f"}


def _write(folder: Path, *rows: object) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_pairs(tmp_path: Path) -> None:
    """Ids, answers and marks are read; a mark in characters is the last token there; blank lines pass."""
    marks = {"x": [0, 2], "y": 0}
    path = _write(tmp_path, {"id": "one", **GOOD, "marks": marks}, "", {**GOOD, "wrong": ["f", "g", "f"]})
    pairs = read_pairs(path, letters())
    one, two = pairs
    ids = letters().convert_tokens_to_ids
    assert (pairs.task, one.id, two.id) == ("own", "one", "own:3")
    assert one.marks == {"x": 1, "y": 0, "end": 2}
    assert (one.clean.text, one.corrupt.text) == ("abc", "abd")
    assert (one.right, one.wrong) == ((ids("e"),), (ids("f"),))
    assert two.wrong == (ids("f"), ids("g"))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "object|dictionary|_Row"),
        ({}, "clean: Field required"),
        ({**GOOD, "answer": None}, "answer"),
        ({**GOOD, "answer": ""}, "answer.*at least 1 character"),
        ({**GOOD, "answer": []}, "answer.*at least 1 item"),
        ({**GOOD, "answer": "ef"}, "'ef'.*2 tokens"),
        ({**GOOD, "answer": "f"}, "1 of them both"),
        ({**GOOD, "corrupt": "ab"}, "3 tokens, the corrupt one 2"),
        ({**GOOD, "clean": " "}, "empty text"),
        ({**GOOD, "right": "e"}, "right: Extra"),
        ({**GOOD, "marks": {"x": 3}}, "lie beyond them: .*'x': 3"),
        ({**GOOD, "marks": {"x": -1}}, "greater than or equal to 0"),
        ({**GOOD, "marks": {"x": [0, 9]}}, "the text has 3"),
        ({**GOOD, "marks": {"x": [1, 1]}}, "'x'.*no token is there"),
        ({**GOOD, "marks": {"x": [1]}}, "marks.x"),
        ({**GOOD, "marks": {"end": 0}}, "its last one, 2"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_returned(tmp_path: Path, row: object, complaint: str) -> None:
    """The error says file, line and what is wrong with the row, in one line."""
    path = _write(tmp_path, GOOD, row, GOOD)
    with pytest.raises(InputError, match=complaint) as raised:
        read_pairs(path, letters())
    assert str(raised.value).startswith(f"{path}:2: ")
    assert "\n" not in str(raised.value)


def test_ids_are_used_once_and_files_have_rows(tmp_path: Path) -> None:
    """Two rows of one id would be mixed up; an empty or missing file is no set of pairs."""
    with pytest.raises(InputError, match=r":2: the id 'a' was used on line 1"):
        read_pairs(_write(tmp_path, {"id": "a", **GOOD}, {"id": "a", **GOOD}), letters())
    with pytest.raises(InputError, match="it is empty"):
        read_pairs(_write(tmp_path, ""), letters())
    with pytest.raises(InputError, match="there is none"):
        read_pairs(tmp_path / "none.jsonl", letters())
