"""A report to share: the numbers without any text of the prompts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from probe.report.answer import Answer
from probe.report.provenance import Provenance


def without_text(answers: Sequence[Answer], provenance: Provenance) -> tuple[list[Answer], Provenance]:
    """Drop what could tell the text: the command line, names of prompts, text along tokens, text arrays.

    Metrics, towers, layers, heads, token counts and positions stay. Notes stay: they are about the run, and a
    metric that quotes a prompt in a note would show it.
    """
    return [_answer(answer) for answer in answers], replace(provenance, command=None)


def _answer(answer: Answer) -> Answer:
    by_prompt = None if answer.by_prompt is None else _array(answer.by_prompt)
    extra = {name: _array(array) for name, array in answer.extra.items() if not _is_text(array)}
    tokens = {prompt: _array(array) for prompt, array in answer.token_maps.items()}
    return replace(answer, by_prompt=by_prompt, token_maps=tokens, extra=extra)


def _array(array: xr.DataArray) -> xr.DataArray:
    for name, coord in list(array.coords.items()):
        if not _is_text(coord):
            continue
        if name == "prompt" and coord.dims == ("prompt",):
            array = array.assign_coords(prompt=np.arange(coord.size))
        elif {"prompt", "token", "query_pos", "key_pos"} & {name, *coord.dims}:
            array = array.drop_vars(str(name))
    return array


def _is_text(array: xr.DataArray) -> bool:
    return array.dtype.kind not in "fiubc"
