"""The data that ships with probe, and where it lies."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from probe.errors import InputError

_ROOT = Path(__file__).parents[2]


def data_dir() -> Path:
    """The folder of shipped data: ``datasets/`` of the repository, else ``probe_data`` of an installed wheel.

    Raises:
        InputError: neither is there; the installation is incomplete.
    """
    # Beside an installed `probe` there may be Hugging Face's package `datasets`; the manifest tells ours apart.
    for folder in (_ROOT / "datasets", _ROOT / "probe_data"):
        if (folder / "MANIFEST.json").is_file():
            return folder
    raise InputError(
        f"the shipped data was asked; {_ROOT} holds neither datasets/ nor probe_data/: install probe again"
    )


@dataclass(frozen=True)
class Needle:
    """A sentence to hide in a haystack, a question about it, and the part of the sentence that answers it."""

    id: str
    needle: str
    question: str
    answer: str

    @property
    def opening(self) -> str:
        """The needle up to its answer, without the space before it: what a model is asked to complete."""
        return self.needle[: self.needle.index(self.answer)].rstrip()


def default_text() -> str:
    """The text that `probe analyze` uses when it is given none: a story of about 2400 tokens, CC0."""
    return _read("tide_mill.txt")


def haystack() -> str:
    """1.1 MB of public-domain English to hide needles in."""
    return _read("kjv_selection.txt")


@cache
def needles() -> tuple[Needle, ...]:
    """The shipped needles, in the file's order."""
    return tuple(Needle(**row) for row in rows("needles.jsonl"))


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a shipped ``.jsonl`` file."""
    return [json.loads(line) for line in _read(name).splitlines()]


@cache
def _read(name: str) -> str:
    return (data_dir() / name).read_text(encoding="utf-8")
