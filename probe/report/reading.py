"""Opening a report, without torch: every file is checked, and what is missing, damaged or mixed is named."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from probe.errors import ReportError
from probe.report.answer import Answer
from probe.report.arrays import unpack
from probe.report.json_form import SCHEMA
from probe.report.prompt_record import PromptRecord, read_prompt_lines
from probe.report.provenance import Provenance
from probe.report.writing import ARRAYS, KIND, PROMPTS, REPORT, TEXT_FIELDS

Parts = tuple[tuple[Answer, ...], Provenance, tuple[PromptRecord, ...]]


def read(folder: Path) -> Parts:
    """Read and check a report's files; anything missing, damaged or mixed is a `ReportError`."""
    header = _header(folder / REPORT)
    content = _bytes(folder / ARRAYS)
    if hashlib.sha256(content).hexdigest() != header.get("arrays_sha256"):
        raise ReportError(
            f"{folder / ARRAYS} was asked; it is not the file that {REPORT} describes: restore both"
        )
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ReportError(f"{folder / ARRAYS} was asked; it cannot be read ({error}): restore it") from error
    answers = header.get("answers")
    if not isinstance(answers, list):
        raise ReportError(f"{folder / REPORT} was asked; it lists no answers: restore it")
    prompts = (
        read_prompt_lines(folder / PROMPTS) if header.get("prompts") and (folder / PROMPTS).is_file() else ()
    )
    if prompts and len(prompts) != header["prompts"]:
        raise ReportError(
            f"{folder / PROMPTS}: {header['prompts']} prompts were asked, found {len(prompts)}: restore it"
        )
    return (
        tuple(_answer(entry, tensors) for entry in answers),
        Provenance.from_dict(header["provenance"]),
        prompts,
    )


def _answer(entry: Any, tensors: Mapping[str, np.ndarray]) -> Answer:
    texts: dict[str, Any] = {name: entry.get(name) for name in TEXT_FIELDS} if isinstance(entry, dict) else {}
    if not texts or not all(isinstance(value, str) for value in texts.values()):
        raise ReportError(
            f"an answer was asked; {REPORT} holds one without {', '.join(TEXT_FIELDS)}: restore it"
        )
    if texts["better"] not in {"high", "low"}:
        raise ReportError(
            f"{texts['spec']!r} was asked; its better end is {texts['better']!r}, not high or low"
        )
    try:
        return Answer(
            **texts,
            head_map=unpack(entry["head_map"], tensors),
            by_prompt=None if entry["by_prompt"] is None else unpack(entry["by_prompt"], tensors),
            token_maps={int(prompt): unpack(item, tensors) for prompt, item in entry["token_maps"].items()},
            extra={str(name): unpack(item, tensors) for name, item in entry["extra"].items()},
            notes=tuple(str(note) for note in entry["notes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{texts['spec']!r} was asked; its entry in {REPORT} is damaged ({error!r})"
        ) from error


def _header(path: Path) -> dict[str, Any]:
    content = _bytes(path)
    try:
        header = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} was asked; it is not valid JSON ({error}): restore it") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise ReportError(
            f"{path} was asked; it is not a probe report: give the folder that probe analyze wrote"
        )
    if header.get("schema") != SCHEMA:
        raise ReportError(
            f"{path} was asked; it has schema {header.get('schema')!r}, "
            f"this probe reads {SCHEMA}: use the version that wrote it"
        )
    if "provenance" not in header:
        raise ReportError(f"{path} was asked; it holds no provenance: restore it")
    return header


def _no_constant(text: str) -> float:
    raise ValueError(f"the number {text} is not JSON")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ReportError(
            f"{path} was asked; there is no such file: give a folder that probe analyze wrote"
        ) from error
    except OSError as error:
        raise ReportError(
            f"{path} was asked; it cannot be read ({error.strerror}): check its permissions"
        ) from error
