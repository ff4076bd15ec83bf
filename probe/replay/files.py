"""Where results and pages of claims lie, and how they are written: whole, or not at all."""

import os
from pathlib import Path
from urllib.parse import quote

from probe.errors import OutputError

RESULTS, HEADS = "results", "heads"


def default_folder() -> Path:
    """``docs/claims`` of the checkout that the current folder is, else ``$PROBE_HOME/claims``. Not created here."""
    here = Path.cwd()
    if (here / "probe" / "replay" / "table.py").is_file() and (here / "docs").is_dir():
        return here / "docs" / "claims"
    from probe.storage import home

    return home() / "claims"


def result_path(folder: Path, claim: str, model: str) -> Path:
    """The file of one claim's result on one model: ``results/masking/smollm2-135m.json``."""
    return folder / RESULTS / claim / f"{quote(model, safe='')}.json"


def unfinished_path(folder: Path, claim: str, model: str) -> Path:
    """The file of what a run that has not finished has measured."""
    return result_path(folder, claim, model).with_suffix(".unfinished.jsonl")


def scores_path(folder: Path, model: str) -> Path:
    """The file of head scores that several claims share: ``heads/smollm2-135m.jsonl``."""
    return folder / HEADS / f"{quote(model, safe='')}.jsonl"


def replaced(path: Path, text: str) -> None:
    """Write to a temporary name, then rename; raises `OutputError` where that fails."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        fresh.unlink(missing_ok=True)


def refused(path: Path, error: OSError) -> OutputError:
    """The error for a file that cannot be written."""
    return OutputError(
        f"{path} cannot be written ({error.strerror or error}): choose another folder with --out"
    )
