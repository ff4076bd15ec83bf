"""Writing a report: ``report.json``, ``arrays.safetensors`` and, unless text-free, ``prompts.jsonl``.

Arrays are named ``<metric>/<tower>/<map>``. ``report.json`` describes each (axes, coordinates, unit) and
holds the sha256 of the arrays' file, so that files of two runs are never mixed. A folder that does not
exist yet appears whole or not at all; in an existing folder each file is replaced whole and ``report.json``
comes last.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors.numpy import save

from probe.errors import OutputError
from probe.report.answer import Answer
from probe.report.arrays import Tensors, pack
from probe.report.json_form import SCHEMA, finite
from probe.report.prompt_record import PromptRecord, prompt_lines
from probe.report.provenance import Provenance

REPORT, ARRAYS, PROMPTS = "report.json", "arrays.safetensors", "prompts.jsonl"
KIND = "probe.report"
TEXT_FIELDS = ("spec", "name", "summary", "unit", "better", "paper", "bibtex", "tower")


def encode(
    answers: Sequence[Answer], provenance: Provenance, prompts: Sequence[PromptRecord]
) -> dict[str, bytes]:
    """The bytes of every file of a report, by name; ``report.json`` is last."""
    tensors: Tensors = {}
    entries = [_pack_answer(answer, tensors) for answer in answers]
    files = {ARRAYS: save(tensors)}
    if prompts:
        files[PROMPTS] = prompt_lines(prompts).encode()
    header = {
        "schema": SCHEMA,
        "kind": KIND,
        "arrays_sha256": hashlib.sha256(files[ARRAYS]).hexdigest(),
        "prompts": len(prompts),
        "provenance": finite(provenance.to_dict()),
        "answers": entries,
    }
    files[REPORT] = json.dumps(header, allow_nan=False).encode()
    return files


def check_folder(folder: Path) -> None:
    """Refuse a folder that a new report cannot be written to: not empty, not a folder, or not writable."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(
                f"{folder} was asked as the output; it is not empty: name a new folder or empty it"
            )
    except OSError as error:
        raise _refused(folder, error) from error
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} was asked as the output; it is a file: name a folder")


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write encoded files into `folder`, each by way of a temporary one; raises `OutputError` if that fails."""
    try:
        if folder.is_dir():
            for name, content in files.items():
                _replace(folder / name, content)
            if PROMPTS not in files:
                (folder / PROMPTS).unlink(missing_ok=True)
        else:
            _appear(files, folder)
    except OSError as error:
        raise _refused(folder, error) from error


def _appear(files: Mapping[str, bytes], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    fresh.mkdir()
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _refused(folder: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"{folder} was asked as the output; it cannot be written ({reason}): choose another")


def _pack_answer(answer: Answer, tensors: Tensors) -> dict[str, Any]:
    stem = f"{quote(answer.spec, safe=':=,+ ')}/{quote(answer.tower, safe='')}"
    entry: dict[str, Any] = {name: getattr(answer, name) for name in TEXT_FIELDS}
    entry["notes"] = list(answer.notes)
    entry["head_map"] = pack(answer.head_map, f"{stem}/head_map", tensors)
    by_prompt = answer.by_prompt
    entry["by_prompt"] = None if by_prompt is None else pack(by_prompt, f"{stem}/by_prompt", tensors)
    entry["token_maps"] = {
        str(int(prompt)): pack(array, f"{stem}/token_map/{int(prompt)}", tensors)
        for prompt, array in answer.token_maps.items()
    }
    entry["extra"] = {
        name: pack(array, f"{stem}/extra/{quote(name, safe='')}", tensors)
        for name, array in answer.extra.items()
    }
    return entry
