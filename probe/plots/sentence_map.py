"""Sentences against sentences as a picture: what each gives to, or loses without, the ones before it."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ReportError
from probe.plots.theme import TEMPLATE, colorscale
from probe.report.answer import Answer

_PIXELS, _TALLEST, _LONGEST = 14, 1400, 60
_UNITS = {"map": "mean attention of the receiver heads", "suppression": "change of ln KL"}


def sentence_map(
    answer: Answer,
    name: str = "map",
    *,
    prompt: int = 0,
    sentences: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """Draw one matrix over sentences, sources across and the sentences that read them down; grey where undefined.

    Args:
        answer: Of an experiment on sentences, such as ``report.answer("thought_anchors")``.
        name: Which of its arrays: ``map`` or ``suppression``.
        prompt: Which prompt, counted from 0.
        sentences: Their texts, shown on hover; the numbers alone if left out.
        title: Above the figure; the answer's spec and the prompt's id where there is none.

    Raises:
        ReportError: the answer has no such matrix, no such prompt, or another number of sentences.
    """
    values = _matrix(answer, name, prompt)
    count = len(values)
    if sentences is not None and len(sentences) != count:
        raise ReportError(
            f"{len(sentences)} sentences were given; the prompt has {count}: give one text for each"
        )
    texts = [f"{number}" for number in range(count)] if sentences is None else [*map(_shown, sentences)]
    heat = go.Heatmap(
        z=[[cell if math.isfinite(cell) else None for cell in row] for row in values.tolist()],
        x=list(range(count)),
        y=list(range(count)),
        customdata=[[[texts[row], texts[column]] for column in range(count)] for row in range(count)],
        colorscale=colorscale(),
        colorbar={"title": {"text": escape(_UNITS.get(name, name)), "side": "right"}},
        hovertemplate="sentence %{y}: %{customdata[0]}<br>source %{x}: %{customdata[1]}<br>%{z:.4g}<extra></extra>",
        hoverongaps=False,
    )
    shown = f"{answer.spec} · {answer.extra[name]['prompt'].values[prompt]}" if title is None else title
    layout = {
        "template": TEMPLATE,
        "title": {"text": escape(shown)},
        "height": min(_TALLEST, max(320, 140 + _PIXELS * count)),
        "xaxis": {"title": {"text": "source sentence"}},
        "yaxis": {"title": {"text": "sentence"}, "autorange": "reversed"},
    }
    return go.Figure(heat, layout)


def _matrix(answer: Answer, name: str, prompt: int) -> np.ndarray:
    found = answer.extra.get(name, xr.DataArray(math.nan))
    if found.dims != ("prompt", "sentence", "source"):
        known = [key for key, one in answer.extra.items() if one.dims == ("prompt", "sentence", "source")]
        raise ReportError(
            f"a matrix over sentences {name!r} was asked of {answer.spec!r}, which has {', '.join(known) or 'none'}: "
            "give the answer of thought_anchors (suppression=true for the suppression matrix)"
        )
    if not 0 <= prompt < found.sizes["prompt"]:
        raise ReportError(f"prompt {prompt} was asked; there are {found.sizes['prompt']}, counted from 0")
    values = np.asarray(found.values[prompt], dtype=np.float64)
    # Prompts with fewer sentences are padded; a sentence without any value at all lies behind the last.
    there = np.isfinite(values).any(1) | np.isfinite(values).any(0)
    count = int(np.flatnonzero(there)[-1]) + 1 if there.any() else 0
    return values[:count, :count]


def _shown(sentence: str) -> str:
    short = sentence.strip() if len(sentence.strip()) <= _LONGEST else sentence.strip()[: _LONGEST - 1] + "…"
    return escape(short)
