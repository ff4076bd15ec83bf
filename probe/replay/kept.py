"""What a claim has measured so far, line by line on disk: a run that is stopped goes on where it was."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probe.replay.files import refused, replaced
from probe.report.json_form import finite


class Kept:
    """Measured values by key in a file that is appended to.

    `about` says what the values depend on: a file about something else is begun anew. A line that was being written
    when the run was stopped is left out, and its value is measured again.
    """

    def __init__(self, path: Path, about: object, known: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.values: dict[str, Any] = dict(known or {})
        self.measured = 0  # values that were not there
        head = json.dumps(about, sort_keys=True)
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            if lines and lines[0] == head:
                self.values.update(_whole(lines[1:]))
            wanted = [head, *(json.dumps([key, value]) for key, value in self.values.items())]
            # A half-written last line would spoil the one that follows it, so that the file is written anew.
            if lines != wanted or not path.read_text(encoding="utf-8").endswith("\n"):
                replaced(path, "".join(f"{line}\n" for line in wanted))
        except OSError as error:
            raise refused(path, error) from error

    def of(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value of `key` as JSON has it (lists, numbers, None for NaN), measured unless it is there.

        A resumed run is given the same value as the run that measured it.
        """
        if key not in self.values:
            line = json.dumps([key, finite(plain(measure()))], allow_nan=False)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self.values[key] = json.loads(line)[1]
            self.measured += 1
        return self.values[key]

    def drop(self) -> None:
        """Forget everything: the finding is stored."""
        self.path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Arrays, tensors and numbers of numpy as lists and numbers."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "detach"):
        return value.tolist()
    return value


def _whole(lines: list[str]) -> dict[str, Any]:
    found = {}
    for line in lines:
        try:
            key, value = json.loads(line)
        except ValueError:
            continue
        found[key] = value
    return found
