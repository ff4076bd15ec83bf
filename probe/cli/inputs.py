"""What a command is to read: text, a file or prompts, checked before any model is loaded."""

import json
from pathlib import Path

from probe.errors import InputError, UsageError


def read_input(text: str | None, file: Path | None, prompts: Path | None) -> str | Path | None:
    """The text to analyze, or the checked path of a prompts file, or None for the shipped text.

    Raises:
        UsageError: more than one of the three was given.
        InputError: empty text, a file that cannot be read or is not UTF-8, a malformed row (with its line number).
    """
    flags = {"--text": text, "--file": file, "--prompts": prompts}
    given = [name for name, value in flags.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were asked; a run reads one of them: give one")
    if text is not None:
        return checked_text(text, "--text")
    if file is not None:
        return checked_text(read_text(file), str(file))
    if prompts is not None:
        check_rows(prompts)
    return prompts


def read_text(path: Path) -> str:
    """A file's text as UTF-8; raises `InputError` on anything else."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} was asked; there is no such file: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} was asked; byte {error.start} is not UTF-8: save the file as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path} was asked; it cannot be read ({error.strerror}): check the path") from error


def check_rows(path: Path) -> None:
    """Check that a prompts file holds one JSON object per line, each with ``text`` or ``messages``."""
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} was asked; it holds no prompts: write one JSON object per line")
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: a JSON object was asked, found none ({error}): mend it"
            ) from error
        if not isinstance(row, dict) or not ({"text", "messages"} & row.keys()):
            raise InputError(
                f'{path}, line {number}: a prompt was asked, found none: write {{"text": "..."}}'
            )


def checked_text(text: str, source: str) -> str:
    """The text from `source`; raises `InputError` where it is empty or no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{source} was asked; character {error.start} is not UTF-8: write UTF-8") from error
    if not text.strip():
        raise InputError(f"{source} was asked; it holds no text: give at least one word")
    return text
