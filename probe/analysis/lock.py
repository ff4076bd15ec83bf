"""One run per folder: a lock that the operating system drops when its process ends, however it ends."""

import sys
from pathlib import Path

from probe.errors import OutputError

if sys.platform != "win32":
    import fcntl


class FolderLock:
    """Holds a folder for one run.

    Raises:
        OutputError: another run holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("ab")
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise OutputError(
                f"out={folder.parent} was asked; another run is writing there: wait for it, or choose another folder"
            ) from error

    def release(self) -> None:
        """Let the next run in."""
        self._file.close()
