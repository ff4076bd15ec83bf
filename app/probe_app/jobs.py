"""Long work in processes of its own: started, followed and cancelled through files, so that no page needs to stay open.

A job is a folder: ``request.json`` (what is asked), ``status.json`` (what the worker said last), ``result.json`` (of an
edit), ``log.txt`` (all that it printed), ``alive`` (touched while the worker lives) and ``cancel`` (put there by us).
"""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.errors import UsageError

SILENT = 20.0  # seconds without a sign of life after which a worker is taken for dead
_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_ENDED = ("done", "failed", "cancelled", "crashed")
_MOST = 40  # jobs that are listed


@dataclass(frozen=True)
class Job:
    """One job as it stands: ``waiting``, ``running``, ``done``, ``failed``, ``cancelled`` or ``crashed``."""

    name: str
    request: Mapping[str, Any]
    state: str
    status: Mapping[str, Any]
    log: str = ""  # the end of what it printed, where it crashed

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in _ENDED


class Jobs:
    """The jobs under one folder."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.folder, self.runs = folder, runs  # runs: where their reports go
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, request: Mapping[str, Any]) -> str:
        """Write down what is asked and start a process for it; returns the job's name."""
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
        place = self.folder / name
        place.mkdir(parents=True)
        write_json(place / "request.json", {**request, "runs": str(self.runs)})
        write_json(place / "status.json", {"state": "waiting", "what": "starting"})
        (place / "alive").touch()
        with (place / "log.txt").open("wb") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "probe_app.work", str(place)],
                cwd=place,  # relative names of a request cannot be files of the folder that the dashboard runs in
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return name

    def names(self) -> list[str]:
        """The newest jobs first."""
        if not self.folder.is_dir():
            return []
        found = (one.name for one in self.folder.iterdir() if _NAME.fullmatch(one.name))
        return sorted(found, reverse=True)[:_MOST]

    def job(self, name: str) -> Job:
        """A job as it stands; raises `UsageError` for a name that is none."""
        place = self._place(name)
        self._reap(name)
        status = read_json(place / "status.json") or {"state": "waiting"}
        state = str(status.get("state", "waiting"))
        log = ""
        if state not in _ENDED and self._is_dead(name, place):
            # It may have ended between the two looks.
            status = read_json(place / "status.json") or status
            state = str(status.get("state", "waiting"))
            if state not in _ENDED:
                state = "cancelled" if (place / "cancel").exists() else "crashed"
                log = _tail(place / "log.txt")
        return Job(name, read_json(place / "request.json") or {}, state, status, log)

    def result(self, name: str) -> Mapping[str, Any] | None:
        """What an edit gave; None where it gave nothing yet."""
        return read_json(self._place(name) / "result.json")

    def reports(self) -> list[Path]:
        """The folders of the reports that jobs have made."""
        said = (read_json(self.folder / name / "status.json") or {} for name in self.names())
        names = [
            one for status in said for one in (status.get("report"), *(status.get("reports") or {}).values())
        ]
        return [self.runs / name for name in names if isinstance(name, str) and Path(name).name == name]

    def cancel(self, name: str) -> None:
        """Ask a job to end; it does so within a second."""
        (self._place(name) / "cancel").touch()

    def _place(self, name: str) -> Path:
        place = self.folder / name
        if not _NAME.fullmatch(name) or not place.is_dir():
            raise UsageError(
                f"the run {name!r} was asked; there is none of that name: choose one of the list"
            )
        return place

    def _is_dead(self, name: str, place: Path) -> bool:
        child = self._children.get(name)
        if child is not None:
            return child.poll() is not None
        try:
            return time.time() - (place / "alive").stat().st_mtime > SILENT
        except OSError:
            return True

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.poll()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write to a temporary name, then rename."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    fresh.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    fresh.replace(path)


def read_json(path: Path) -> Mapping[str, Any] | None:
    """A JSON object of a file; None where there is none yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _tail(path: Path, size: int = 2000) -> str:
    try:
        return path.read_bytes()[-size:].decode("utf-8", "replace")
    except OSError:
        return ""
