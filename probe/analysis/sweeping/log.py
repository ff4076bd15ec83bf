"""The numbers of finished heads on disk, one line each: a sweep that is killed goes on where it was.

``DIR/unfinished/effects-<digest>.jsonl`` is appended to and flushed to the disk after every head; a last line that was
being written when the process died is dropped. The digest is that of everything which decides the numbers.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probe.analysis.resume import UNFINISHED, Unfinished
from probe.errors import OutputError

Scores = list[list[float]]  # [number][case]


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """The content address of a sweep: model, prompts, intervention, task and parameters."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def unfinished(runs: Path, fingerprint: Mapping[str, Any]) -> Path | None:
    """The folder under `runs` in which a sweep of this fingerprint was interrupted; None where there is none."""
    found = sorted(runs.glob(f"*/{UNFINISHED}/{_name(fingerprint)}"))
    return found[-1].parent.parent if found else None


def _name(fingerprint: Mapping[str, Any]) -> str:
    return f"effects-{digest_of(fingerprint)}.jsonl"


class EffectLog(Unfinished):
    """The finished heads of one sweep."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        """Start a sweep, or take up the one that is there.

        Raises:
            OutputError: the folder holds an unfinished run of something else, or another process writes there.
        """
        super().__init__(folder, fingerprint)
        self.path = self.folder / _name(fingerprint)
        self.finished: dict[str, Scores] = {}
        self._read()

    def _read(self) -> None:
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.finished[entry["unit"]] = entry["scores"]
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(
                    f"{self.path}, line {number}: a finished head was asked, found {line[:40]!r}: delete the line"
                ) from error

    def append(self, unit: str, scores: Scores) -> None:
        """Keep one finished head; it is on the disk when this returns.

        Raises:
            OutputError: the head was finished before, or the disk does not take it.
        """
        if unit in self.finished:
            raise OutputError(f"{self.path} was to be written; it holds {unit} already")
        line = json.dumps({"unit": unit, "scores": scores}) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path} was to be written; that failed ({error}): free the disk"
            ) from error
        self.finished[unit] = scores

    def abandon(self) -> None:
        """After a failure: leave nothing behind unless a head was finished."""
        if self.path.is_file():
            self._lock.release()
        else:
            super().abandon()
