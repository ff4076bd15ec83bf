"""Which answer a key means: the spec as typed, a bare name that is unambiguous, or ``KEY@TOWER``."""

import difflib
from collections.abc import Sequence

from probe.errors import ReportError
from probe.report.answer import Answer

MAIN_TOWER = "decoder"


def key_of(answer: Answer, answers: Sequence[Answer]) -> str:
    """The key of `answer`: its spec, and ``@tower`` where another tower has the bare spec."""
    towers = [other.tower for other in answers if other.spec == answer.spec]
    return answer.spec if len(towers) == 1 or answer.tower == MAIN_TOWER else f"{answer.spec}@{answer.tower}"


def find(answers: Sequence[Answer], key: str, tower: str | None = None) -> Answer:
    """The answer that `key` (and `tower`) means; a `ReportError` lists the keys if there is none or several."""
    found = _with_spec(answers, key)
    if not found and tower is None and "@" in key:
        key, _, tower = key.rpartition("@")
        found = _with_spec(answers, key)
    if not found:
        raise ReportError(f"{key!r} was asked; {_hint(answers, key)}")
    specs = {answer.spec for answer in found}
    if len(specs) > 1:
        raise ReportError(
            f"{key!r} was asked; it could be any of {', '.join(sorted(specs))}: write one of these"
        )
    return _of_tower(found, key, tower)


def _with_spec(answers: Sequence[Answer], key: str) -> list[Answer]:
    return [a for a in answers if a.spec == key] or [a for a in answers if a.name == key]


def _of_tower(found: Sequence[Answer], key: str, tower: str | None) -> Answer:
    by_tower = {answer.tower: answer for answer in found}
    if tower is None and len(found) == 1:
        return found[0]
    wanted = MAIN_TOWER if tower is None else tower
    if wanted in by_tower:
        return by_tower[wanted]
    asked = f"{key!r} was asked" if tower is None else f"{key!r} was asked for tower {tower!r}"
    keys = ", ".join(f"{key}@{name}" for name in by_tower)
    raise ReportError(f"{asked}; it was measured in {', '.join(by_tower)}: write one of {keys}")


def _hint(answers: Sequence[Answer], key: str) -> str:
    keys = sorted({key_of(answer, answers) for answer in answers})
    if not keys:
        return "the report holds no answers"
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}the report holds {', '.join(keys)}"
