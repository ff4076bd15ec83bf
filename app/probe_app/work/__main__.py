"""The process that does a job and says how far it is in files; see `probe_app.jobs`."""

import fcntl
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probe.errors import ProbeError
from probe_app.jobs import read_json, write_json

BEAT = 0.5  # seconds between two signs of life
_CANCELLED = 130
_WORKS = {"analyze": "probe_app.work.analysis", "edit": "probe_app.work.edit"}  # they load torch


class Teller:
    """Says how far the job is, at most a few times a second."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._last = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Progress as every verb of probe tells it."""
        now = time.monotonic()
        if now - self._last > 0.2 or done == total:
            self._last = now
            self.say("running", done=done, total=total, what=what)

    def say(self, state: str, **more: Any) -> None:
        """Write the state down."""
        write_json(self.place / "status.json", {"state": state, **more})

    def failed(self, message: str) -> int:
        """Say why the job failed, unless nobody waits for it any more; returns the exit code."""
        if (self.place / "cancel").exists():
            self.say("cancelled")
            return _CANCELLED
        self.say("failed", message=message)
        return 1


def main(place: Path) -> int:
    """Do the job of a folder; returns the exit code."""
    tell = Teller(place)
    threading.Thread(target=_beat, args=(place, tell), daemon=True).start()
    request = read_json(place / "request.json") or {}
    try:
        with _alone(place.parent / "one-at-a-time", tell):
            tell.say("running", what="loading probe")
            work: Callable[..., Mapping[str, Any]] = importlib.import_module(_WORKS[request["work"]]).work
            found = work(request, place, tell)
    except ProbeError as error:
        return tell.failed(str(error))
    except Exception as error:  # noqa: BLE001 -- whatever it was, the page must say it
        traceback.print_exc()
        return tell.failed(f"{type(error).__name__}: {error}")
    tell.say("done", **found)
    return 0


def _beat(place: Path, tell: Teller) -> None:
    while True:
        if (place / "cancel").exists():
            try:
                tell.say("cancelled")
            finally:
                os._exit(_CANCELLED)
        (place / "alive").touch()
        time.sleep(BEAT)


@contextmanager
def _alone(lock: Path, tell: Teller) -> Iterator[None]:
    """One job at a time on a machine: two models at once would not fit, and would be slower than one after another."""
    with lock.open("a") as file:
        tell.say("waiting", what="another run is going on")
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
