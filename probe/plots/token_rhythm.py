"""The rhythm of a response as a picture: how far local heads look back, and how much global heads return, per token."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import ReportError
from probe.plots.theme import INK, TEMPLATE
from probe.report.answer import Answer
from probe.report.ramp import stops

_PANELS = (("waad", "WAAD of local heads (tokens)"), ("fai", "FAI of global heads (probability)"))


def token_rhythm(
    answer: Answer, *, prompt: int = 0, tokens: Sequence[str] | None = None, title: str | None = None
) -> go.Figure:
    """Draw WAAD above FAI over the tokens of a response, peaks marked; a gap where a signal is undefined.

    Args:
        answer: Of ``rhythm``, such as ``report.answer("rhythm")``.
        prompt: Which prompt, counted from 0.
        tokens: The prompt's tokens as text, shown on hover; the numbers alone if left out.
        title: Above the figure; the answer's spec and the prompt's id where there is none.

    Raises:
        ReportError: the answer has no such signals, no such prompt, or more tokens than texts.
    """
    signals = {name: _signal(answer, name, prompt) for name, _ in _PANELS}
    at = np.flatnonzero(np.isfinite(signals["waad"]) | np.isfinite(signals["fai"]))
    if tokens is not None and at.size and len(tokens) <= at[-1]:
        raise ReportError(
            f"{len(tokens)} tokens were given; the response ends at token {at[-1]}: give all of them"
        )
    texts = [str(token) if tokens is None else escape(tokens[token]) for token in at.tolist()]
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    for row, (name, label) in enumerate(_PANELS, start=1):
        peak = _signal(answer, f"peak:{name}", prompt)[at] == 1
        for trace in _traces(name, at, signals[name][at], peak, texts):
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title={"text": label}, row=row, col=1)
    figure.update_xaxes(title={"text": "token"}, row=2, col=1)
    shown = f"{answer.spec} · {answer.extra['waad']['prompt'].values[prompt]}" if title is None else title
    figure.update_layout(
        template=TEMPLATE, title={"text": escape(shown)}, showlegend=False, plot_bgcolor="#ffffff"
    )
    return figure


def _traces(
    name: str, at: np.ndarray, values: np.ndarray, peak: np.ndarray, texts: Sequence[str]
) -> tuple[go.Scatter, go.Scatter]:
    hover = "token %{x}: %{text}<br>%{y:.4g}<extra></extra>"
    line = go.Scatter(
        x=at.tolist(),
        y=[value if math.isfinite(value) else None for value in values.tolist()],
        text=list(texts),
        name=name,
        mode="lines",
        line={"color": INK, "width": 1},
        hovertemplate=hover,
    )
    marks = go.Scatter(
        x=at[peak].tolist(),
        y=values[peak].tolist(),
        text=[text for text, high in zip(texts, peak, strict=True) if high],
        name=f"{name} peaks",
        mode="markers",
        marker={"color": stops()[0][1], "size": 6},
        hovertemplate=hover,
    )
    return line, marks


def _signal(answer: Answer, name: str, prompt: int) -> np.ndarray:
    if name not in answer.extra or answer.extra[name].dims != ("prompt", "token"):
        raise ReportError(
            f"the rhythm of {answer.spec!r} was asked; it has no {name} by (prompt, token): give the answer of rhythm"
        )
    found = answer.extra[name]
    if not 0 <= prompt < found.sizes["prompt"]:
        raise ReportError(f"prompt {prompt} was asked; there are {found.sizes['prompt']}, counted from 0")
    return np.asarray(found.values[prompt], dtype=np.float64)
