"""The reports that the dashboard may show: those in the folders it was given, by name and never by path."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.errors import ProbeError, ReportError
from probe.report import Report, open_report
from probe.report.kept import KeptRun

_HEADER = "report.json"
_OPEN = 4  # reports kept in memory


@dataclass(frozen=True)
class Shelf:
    """One report by the name that the browser sees, and where it lies."""

    name: str
    folder: Path

    @property
    def stamp(self) -> tuple[str, int]:
        """What changes when the report is written anew."""
        return str(self.folder), (self.folder / _HEADER).stat().st_mtime_ns


class Library:
    """Reports in given folders: a folder is a report, or holds reports one level below.

    The browser names a report by what `names` lists; whatever else it says is refused, so no path from outside reaches
    the file system.
    """

    def __init__(self, folders: Sequence[Path], made: Callable[[], Sequence[Path]] = tuple) -> None:
        self.folders = tuple(folder.resolve() for folder in folders)
        self._made = made  # reports that were made since, wherever they lie
        self._opened: OrderedDict[tuple[str, int], Report] = OrderedDict()
        self._lock = threading.Lock()

    def shelves(self) -> list[Shelf]:
        """Every report, the newest first; looked up anew each time, since runs end while the page is open."""
        folders = (*self.folders, *(one.resolve() for one in self._made()))
        found = sorted(_reports(folders), key=_written, reverse=True)
        names: dict[str, int] = {}
        shelves = []
        for folder in found:
            name = folder.name.encode(errors="replace").decode()  # a name may be bytes that are no text
            number = names[name] = names.get(name, 0) + 1
            shelves.append(Shelf(name if number == 1 else f"{name} ({number})", folder))
        return shelves

    def names(self) -> list[str]:
        """The names of all reports, the newest first."""
        return [shelf.name for shelf in self.shelves()]

    def shelf(self, name: str) -> Shelf:
        """The report of a name; raises `ReportError` for a name that is not listed."""
        for shelf in self.shelves():
            if shelf.name == name:
                return shelf
        raise ReportError(
            f"the report {name!r} was asked; the folders hold none of that name: choose another"
        )

    def open(self, name: str) -> Report:
        """Open a report, or hand out the one that is open; raises `ReportError` where it is damaged."""
        shelf = self.shelf(name)
        stamp = shelf.stamp
        with self._lock:
            if stamp in self._opened:
                self._opened.move_to_end(stamp)
                return self._opened[stamp]
        report = open_report(shelf.folder)
        with self._lock:
            self._opened[stamp] = report
            while len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
        return report

    def kept(self, name: str) -> KeptRun:
        """What a report's folder kept beside its numbers: pooled maps, queries and keys."""
        return KeptRun(self.shelf(name).folder)


def check_folders(folders: Iterable[Path]) -> list[Path]:
    """The folders, each one checked to be there; raises `ReportError` naming the one that is not."""
    checked = []
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(
                f"{folder} was asked; it is no folder: give one that probe analyze --out wrote, or one that holds such"
            )
        checked.append(folder)
    return checked


def told(error: ProbeError) -> str:
    """An error as a page shows it."""
    return str(error)


def _reports(folders: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for folder in folders:
        if (folder / _HEADER).is_file():
            found[folder] = None
        elif folder.is_dir():
            inner = (one for one in folder.iterdir() if not one.is_symlink() and (one / _HEADER).is_file())
            found.update(dict.fromkeys(inner))
    return list(found)


def _written(folder: Path) -> tuple[int, str]:
    return (folder / _HEADER).stat().st_mtime_ns, folder.name
