"""What a command reads is checked before a model is loaded."""

from pathlib import Path

import pytest

from probe.cli.inputs import read_input
from probe.errors import InputError, UsageError


def test_nothing_given_is_the_shipped_text() -> None:
    """The analysis chooses it."""
    assert read_input(None, None, None) is None


def test_text_and_file_give_text(tmp_path: Path) -> None:
    """A byte-order mark is not text."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfthe c\xc3\xa4t")
    assert read_input("the cat", None, None) == "the cat"
    assert read_input(None, path, None) == "the cät"


def test_prompts_give_their_path(tmp_path: Path) -> None:
    """Rows are read with the model's tokenizer later."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "a"}\n\n{"messages": []}\n')
    assert read_input(None, None, path) == path


def test_two_sources_are_refused(tmp_path: Path) -> None:
    """The message names the two."""
    with pytest.raises(UsageError, match="--text and --file"):
        read_input("a", tmp_path, None)


@pytest.mark.parametrize("text", ["", "  \n\t", "\udcff"])
def test_text_that_holds_nothing_readable_is_refused(text: str) -> None:
    """Empty, blank, or bytes that were no UTF-8 on the command line."""
    with pytest.raises(InputError, match="--text was asked"):
        read_input(text, None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no text"),
        (b"caf\xe9", "byte 3 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """The message names the file and what is wrong with it."""
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_input(None, path, None)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """Both are named."""
    with pytest.raises(InputError, match="no such file"):
        read_input(None, tmp_path / "none.txt", None)
    with pytest.raises(InputError, match="cannot be read"):
        read_input(None, tmp_path, None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "no prompts"),
        ('{"text": "a"}\n{"text": ', "line 2"),
        ('{"text": "a"}\n\n[1]', "line 3"),
        ('{"txt": "a"}', "line 1"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_a_malformed_row_is_named_by_line(rows: str, message: str, tmp_path: Path) -> None:
    """Blank lines count as lines."""
    path = tmp_path / "p.jsonl"
    path.write_text(rows)
    with pytest.raises(InputError, match=message):
        read_input(None, None, path)
