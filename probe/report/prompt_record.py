"""What a report keeps of a prompt: its text, tokens and spans. A text-free report keeps none."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from probe.errors import ReportError


@dataclass(frozen=True)
class PromptRecord:
    """One prompt of a run: `spans` are half-open token ranges ``[start, stop)`` by name."""

    id: str
    text: str | None = None
    tokens: tuple[int, ...] = ()
    str_tokens: tuple[str, ...] = ()
    spans: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    answer: str | None = None


def prompt_lines(prompts: Iterable[PromptRecord]) -> str:
    """The prompts as JSON Lines."""
    return "".join(json.dumps(asdict(prompt), ensure_ascii=True) + "\n" for prompt in prompts)


def read_prompt_lines(path: Path) -> tuple[PromptRecord, ...]:
    """Read ``prompts.jsonl``; a bad row is a `ReportError` with its line number."""
    rows = path.read_bytes().split(b"\n")
    return tuple(_record(path, number, row) for number, row in enumerate(rows, 1) if row.strip())


def _record(path: Path, number: int, row: bytes) -> PromptRecord:
    where = f"{path}, line {number}"
    try:
        entry = json.loads(row)
    except ValueError as error:
        raise ReportError(
            f"{where}: a prompt was asked, found no JSON ({error}); restore the file"
        ) from error
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ReportError(f"{where}: a prompt with an id was asked, found {row[:60]!r}; restore the file")
    known = {item.name: entry[item.name] for item in fields(PromptRecord) if item.name in entry}
    try:
        known["tokens"] = tuple(int(token) for token in known.get("tokens", ()))
        known["str_tokens"] = tuple(str(token) for token in known.get("str_tokens", ()))
        spans = known.get("spans", {}).items()
        known["spans"] = {name: tuple((int(a), int(b)) for a, b in ranges) for name, ranges in spans}
    except (TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{where}: tokens and spans were asked, found others ({error}); restore the file"
        ) from error
    return PromptRecord(**known)
