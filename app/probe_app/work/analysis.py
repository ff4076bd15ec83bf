"""The work of an analysis: a report among the last runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import probe
from probe.cli.running import default_metrics


def work(request: Mapping[str, Any], place: Path, tell: Any) -> dict[str, Any]:
    """Run `probe.analyze` as asked; says the name of the report."""
    del place
    folder = run_folder(request)
    tell(0, 0, f"loading {request['model']}")
    loaded = probe.load(request["model"])
    probe.analyze(
        loaded,
        request.get("text") or None,
        request.get("metrics") or default_metrics(loaded),
        out=folder,
        keep=request.get("keep") or "map",
        max_tokens=request.get("max_tokens"),
        seed=int(request.get("seed") or 0),
        progress=tell,
    )
    return {"report": folder.name}


def run_folder(request: Mapping[str, Any], *more: str) -> Path:
    """The folder of a report to come, named after time, model and `more`; it does not exist yet."""
    name = "-".join([str(request["model"]).rpartition("/")[2], *more])
    kept = "".join(mark if mark.isalnum() or mark in "._-" else "-" for mark in name)[:60] or "model"
    stem = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime())}-{kept}"
    folder, number = Path(request["runs"]) / stem, 2
    while folder.exists():
        folder, number = folder.with_name(f"{stem}-{number}"), number + 1
    return folder
