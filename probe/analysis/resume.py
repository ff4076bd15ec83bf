"""An unfinished run on disk: it survives being killed, and goes on without losing or repeating a prompt.

``DIR/unfinished/run.json`` holds the fingerprint; each finished batch is one safetensors file beside it, written to a
temporary name and renamed. The folder goes away when the report is final.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from probe.analysis.files import replace_file
from probe.analysis.lock import FolderLock
from probe.errors import OutputError
from probe.metrics.base import Metric
from probe.metrics.state import restore, state

UNFINISHED = "unfinished"


def check_output(folder: Path) -> None:
    """Refuse, before anything is loaded, a folder that cannot become a report's.

    Raises:
        OutputError: not a folder, not writable, or holding files that are no unfinished run.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"out={folder} was asked; {nearest} is not a folder: choose another")
    if not _writable(nearest):
        raise OutputError(f"out={folder} was asked; {nearest} cannot be written: choose another folder")
    others = [path for path in folder.iterdir() if path.name != UNFINISHED] if folder.exists() else []
    if others and not (folder / UNFINISHED / "run.json").is_file():
        raise OutputError(f"out={folder} was asked; it is not empty: choose an empty or new folder")


def _writable(folder: Path) -> bool:
    trial = folder / ".probe-write-test"
    try:
        trial.touch()
        trial.unlink()
    except OSError:
        return False
    return True


class Unfinished:
    """The state of one run in its output folder."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        """Start a run, or take up the one that is there.

        Raises:
            OutputError: the folder holds an unfinished run of something else; the message names what differs.
        """
        self.root, self.fingerprint = folder, fingerprint
        self.folder = folder / UNFINISHED
        known = self._known()
        asked = json.loads(json.dumps(fingerprint))
        if known is not None and known != asked:
            differing = sorted(name for name in {*known, *asked} if known.get(name) != asked.get(name))
            raise OutputError(
                f"out={folder} was asked; it holds an unfinished run with other {', '.join(differing)}: "
                "repeat that call to finish it, or choose another folder"
            )
        self.fresh, self.created = known is None, not folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder)
        if self.fresh:
            replace_file(self.folder / "run.json", json.dumps(asked).encode())

    def done(self) -> list[dict[str, Any]]:
        """What each finished batch noted, in order, up to the first that is missing."""
        notes: list[dict[str, Any]] = []
        while (path := self._shard(len(notes))).is_file():
            try:
                with safe_open(path, framework="numpy") as file:
                    notes.append(json.loads((file.metadata() or {})["notes"]))
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                raise OutputError(
                    f"{path} was to be resumed; it cannot be read ({error}): delete it"
                ) from error
        return notes

    def save(self, number: int, metrics: Sequence[Metric], notes: Mapping[str, Any]) -> None:
        """Keep one finished batch: the cells of every metric, and what the session noted."""
        arrays = {f"{i}/{name}": value for i, metric in enumerate(metrics) for name, value in state(metric)}
        shapes = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        replace_file(self._shard(number), save(shapes, metadata={"notes": json.dumps(notes)}))

    def restore(self, metrics: Sequence[Metric], batches: int) -> None:
        """Put the cells of the first `batches` finished batches back into the metrics."""
        for number in range(batches):
            with safe_open(self._shard(number), framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            for i, metric in enumerate(metrics):
                mine = {
                    name.split("/", 1)[1]: value for name, value in arrays.items() if name.startswith(f"{i}/")
                }
                restore(metric, mine)

    def finish(self) -> None:
        """Forget the state: the report is final."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """After a failure: leave nothing behind unless a batch was finished."""
        self._lock.release()
        if not self.fresh or self._shard(0).is_file():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.root / "kept", ignore_errors=True)
        if self.created and not any(self.root.iterdir()):
            self.root.rmdir()

    def _shard(self, number: int) -> Path:
        return self.folder / f"batch-{number:06d}.safetensors"

    def _known(self) -> Any:
        path = self.folder / "run.json"
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path} was to be resumed; it cannot be read ({error}): choose another folder"
            ) from error
