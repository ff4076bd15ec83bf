"""What a claim has measured so far, line by line on disk: a run that is stopped goes on where it was."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Finished:
    """Values by key in a file that is appended to; `about` says what they depend on, and another one starts anew."""

    def __init__(self, path: Path, about: object) -> None:
        self.path = path
        self.about = json.dumps(about, sort_keys=True)
        self.values: dict[str, Any] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if not lines or lines[0] != self.about:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.about + "\n", encoding="utf-8")
            return
        for line in lines[1:]:
            try:
                key, value = json.loads(line)
            except ValueError:  # the line that was being written when the run was stopped
                continue
            self.values[key] = value

    def of(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value of `key`, measured unless it is there."""
        if key not in self.values:
            value = measure()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, value]) + "\n")
            self.values[key] = value
            print(f"  {key}", file=sys.stderr, flush=True)
        return self.values[key]

    def drop(self) -> None:
        """Forget everything: the claim is stored."""
        self.path.unlink(missing_ok=True)
