"""A report to share: the numbers without any text of the prompts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from probe.report.answer import Answer
from probe.report.prompt_record import PromptRecord
from probe.report.provenance import Provenance

#: Axes whose labels are words of this library or names that positions, heads and tasks were given. Text along any other
#: axis may be a prompt's: an axis that is not listed loses its labels, never the other way round.
WORDS = frozenset(
    {
        "bound", "checked", "circuit", "component", "group", "half", "head", "kind", "list", "mark", "mean", "measure",
        "member", "node", "number", "receiver", "role", "run", "sender", "side", "slice", "statistic", "stream", "task",
    }
)  # fmt: skip
LEFT_OUT = "…"  # stands where a note or a setting quoted something
_QUOTED = re.compile(r"(?<!\w)(['\"])(?:\\.|(?!\1).)*\1", re.DOTALL)
_SHORTEST = 3  # characters of a prompt's name that a note is searched for


def without_text(
    answers: Sequence[Answer], provenance: Provenance, prompts: Sequence[PromptRecord] = ()
) -> tuple[list[Answer], Provenance]:
    """Drop what could tell the text; numbers, towers, layers, heads, token counts and positions stay.

    Labels that are text stay along the axes of `WORDS` alone, and arrays of text go: a note of the answer names what
    was left out. Prompts are numbered. In notes, settings and attributes whatever stands in quotes, and every name of
    a prompt, becomes ``…``; the command line goes.
    """
    named = _names(answers, prompts)
    notes = tuple(dict.fromkeys(_said(note, named) for note in provenance.notes))
    settings = {name: _said(value, named) for name, value in provenance.settings.items()}
    shared = replace(provenance, command=None, notes=notes, settings=settings)
    return [_answer(answer, named) for answer in answers], shared


def _answer(answer: Answer, named: re.Pattern[str] | None) -> Answer:
    lost: dict[str, None] = {}

    def shared(array: xr.DataArray) -> xr.DataArray:
        return _array(array, lost, named)

    extra = {name: shared(array) for name, array in answer.extra.items() if not _is_text(array)}
    clean = replace(
        answer,
        head_map=shared(answer.head_map),
        by_prompt=None if answer.by_prompt is None else shared(answer.by_prompt),
        token_maps={prompt: shared(array) for prompt, array in answer.token_maps.items()},
        extra=extra,
    )
    notes = [_said(note, named) for note in answer.notes]
    gone = [f"labels of {name}" for name in lost] + [
        f"array {name}" for name in answer.extra if name not in extra
    ]
    if gone:
        notes.append(f"left out, since a prompt's text may stand there: {', '.join(gone)}")
    return replace(clean, notes=tuple(notes))


def _array(array: xr.DataArray, lost: dict[str, None], named: re.Pattern[str] | None) -> xr.DataArray:
    """The array without labels that may tell the text; adds their names to `lost`."""
    kept = [np.asarray(coord.values) for name, coord in array.coords.items() if name in WORDS]
    for name, coord in list(array.coords.items()):
        if not _is_text(coord) or name in WORDS or any(np.array_equal(coord.values, one) for one in kept):
            continue
        if name == "prompt" and coord.dims == ("prompt",):
            array = array.assign_coords(prompt=np.arange(coord.size))
        else:
            array = array.drop_vars(str(name))
            lost[str(name)] = None
    return array.assign_attrs({name: _said(value, named) for name, value in array.attrs.items()})


def _is_text(array: xr.DataArray) -> bool:
    return array.dtype.kind not in "fiubc"


def _names(answers: Sequence[Answer], prompts: Sequence[PromptRecord]) -> re.Pattern[str] | None:
    """What finds the names of prompts in a line; None where no name is more than a number."""
    found = {prompt.id for prompt in prompts}
    for answer in answers:
        for array in _arrays(answer):
            if "prompt" in array.coords and _is_text(array.coords["prompt"]):
                found |= {str(name) for name in np.atleast_1d(array.coords["prompt"].values)}
    told = sorted(
        (one for one in found if len(one) >= _SHORTEST and not one.isdigit()), key=len, reverse=True
    )
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, told))})(?!\w)") if told else None


def _arrays(answer: Answer) -> Iterable[xr.DataArray]:
    return (one for one in (answer.head_map, answer.by_prompt, *answer.extra.values()) if one is not None)


def _said(value: Any, named: re.Pattern[str] | None) -> Any:
    """A text, or plain values that hold texts, without quotes and names of prompts."""
    if isinstance(value, str):
        unquoted = _QUOTED.sub(LEFT_OUT, value)
        return unquoted if named is None else named.sub(LEFT_OUT, unquoted)
    if isinstance(value, Mapping):
        return {_said(name, named): _said(one, named) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_said(one, named) for one in value)
    return value
