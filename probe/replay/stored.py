"""One claim's result on one model, as it is stored."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probe.errors import ReportError
from probe.replay.claim import BOTH
from probe.replay.files import RESULTS, replaced, result_path
from probe.replay.finding import Finding
from probe.replay.machine import machine
from probe.report.json_form import finite

SCHEMA = 1


@dataclass(frozen=True)
class Stored:
    """A finding with where it came from; `measured` holds every number that was measured for it, by key."""

    claim: str
    model: str
    sha256: str | None
    seed: int
    small: bool
    finding: Finding
    settings: Mapping[str, Any]
    measured: Mapping[str, Any]
    machine: Mapping[str, Any] = field(default_factory=machine)

    @property
    def command(self) -> str:
        """What measures it again."""
        seed = f" --seed {self.seed}" if self.seed else ""
        return f"probe replay {self.claim} --model {self.model}{seed}{' --small' if self.small else ''}"

    def write(self, folder: Path) -> Path:
        """Store it below `folder`; raises `OutputError`."""
        path = result_path(folder, self.claim, self.model)
        values = {"schema": SCHEMA, **asdict(self), "finding": self.finding.to_dict()}
        replaced(path, json.dumps(finite(values), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> "Stored":
        """The result in a file; raises `ReportError` where it is none."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("schema") != SCHEMA:
                raise ReportError(
                    f"{path} was read as a claim's result; its schema is another: replay the claim"
                )
            return cls(**{**found, "finding": Finding.from_dict(found["finding"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReportError(
                f"{path} was read as a claim's result; it is none ({error}): delete it and replay the claim"
            ) from error


def stored_in(folder: Path, claim: str) -> list[Stored]:
    """The stored results of a claim: in the order of the models that claims are listed for, then by name."""
    found = [Stored.read(path) for path in (folder / RESULTS / claim).glob("*.json")]
    return sorted(
        found, key=lambda one: (BOTH.index(one.model) if one.model in BOTH else len(BOTH), one.model)
    )
