"""Sentences of a prompt on the page of a head: what each gives to the ones before it, by this head and by others."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import dash_mantine_components as dmc
import numpy as np
import plotly.graph_objects as go
import xarray as xr

from probe.errors import ProbeError
from probe.plots import sentence_map
from probe.report import Report
from probe.report.answer import Answer
from probe_app import figures
from probe_app.said import problem
from probe_app.tile import MOST_PAIRS, KeptView

MARK = "sentences"
_OWN = "mean attention"  # also what is written at the colour bar
_ROWS = 256  # rows of the pattern held at once


def sentence_cards(report: Report, view: KeptView) -> list[object]:
    """A title and a card per matrix over the sentences of the prompt; nothing where the report has none."""
    cards: list[object] = []
    for key, answer in zip(report.keys(), report.answers, strict=True):
        row = prompt_row(report, answer, view.prompt)
        if row is None or answer.tower != view.head.tower:
            continue
        texts = sentence_texts(report, answer, row)
        own = _own(view, answer, row)
        if own is not None:
            title = f"sentence to sentence · {view.head}"
            draw = partial(sentence_map, own, _OWN, sentences=texts, title=title)
            cards.append(_card(f"{key}/own", f"Sentences, {view.head}", draw))
        for name in ("map", "suppression"):
            if name in answer.extra:
                draw = partial(sentence_map, answer, name, prompt=row, sentences=texts)
                cards.append(_card(f"{key}/{name}", f"Sentences, {name} of {key}", draw))
    title = dmc.Title("Sentences", order=2, size="h4")
    return [title, dmc.SimpleGrid(cards, cols={"base": 1, "lg": 2})] if cards else []


def prompt_row(report: Report, answer: Answer, prompt: int) -> int | None:
    """Where an answer on sentences holds a prompt of the report; None where it holds none of it."""
    start = answer.extra.get("start")
    if start is None or start.dims != ("prompt", "sentence") or prompt >= len(report.prompts):
        return None
    rows = _numbers(report, answer)
    return rows.index(prompt) if prompt in rows else None


def sentence_texts(report: Report, answer: Answer, row: int) -> list[str] | None:
    """The sentences of a prompt as text; None where the report keeps no text."""
    number = _numbers(report, answer)[row]
    tokens = report.prompts[number].str_tokens if number is not None else ()
    bounds = _bounds(answer, row)
    if not tokens or (len(bounds) and bounds[-1, 1] > len(tokens)):
        return None
    return ["".join(tokens[start:stop]) for start, stop in bounds]


def _numbers(report: Report, answer: Answer) -> list[int | None]:
    """Which prompt of the report each row is of."""
    names = [str(name) for name in answer.extra["start"]["prompt"].values]
    known = {prompt.id: number for number, prompt in enumerate(report.prompts)}
    first = report.prompts[0].str_tokens if report.prompts else ()
    if (
        len(names) == 1
        and names[0] not in known
        and first
        and _bounds(answer, 0)[-1:, 1].tolist() == [len(first)]
    ):
        # An experiment has a name of its own for the text that ships with probe; the report counts prompts.
        return [0]
    return [known.get(name) for name in names]


def _bounds(answer: Answer, row: int) -> np.ndarray:
    """First token and token after the last of every sentence, ``[sentence, 2]``."""
    both = np.stack([answer.extra[name].values[row] for name in ("start", "stop")], axis=1)
    return np.asarray(both[np.isfinite(both).all(1)], dtype=np.int64)


def _own(view: KeptView, answer: Answer, row: int) -> Answer | None:
    """The answer with this head's own matrix, mean over rows × keys; None where its queries and keys were not kept."""
    if not view.kept.has_qk:
        return None
    bounds = _bounds(answer, row)
    if not len(bounds) or int(bounds[-1, 1]) ** 2 > MOST_PAIRS:
        return None
    try:
        between = between_sentences(view, bounds)
    except ProbeError:  # this layer's were not kept: the page says so beside the map
        return None
    data = xr.DataArray(between[None], dims=("prompt", "sentence", "source"), coords={"prompt": [str(row)]})
    return replace(answer, extra={_OWN: data})


def between_sentences(view: KeptView, bounds: np.ndarray) -> np.ndarray:
    """Mean pattern cell of (rows of a sentence) × (keys of another), ``[sentence, source]``; NaN for later sources."""
    out = np.full((len(bounds), len(bounds)), np.nan)
    stop = int(bounds[-1, 1])
    for at, (first, last) in enumerate(bounds):
        total = np.zeros(stop + 1)
        for start in range(int(first), int(last), _ROWS):
            rows = view.pattern(start, min(start + _ROWS, int(last)), stop)
            total[1:] += np.cumsum(rows.sum(0, dtype=np.float64))
        mass = total[bounds[: at + 1, 1]] - total[bounds[: at + 1, 0]]
        out[at, : at + 1] = mass / ((last - first) * (bounds[: at + 1, 1] - bounds[: at + 1, 0]))
    return out


def _card(name: str, label: str, draw: Callable[[], go.Figure]) -> object:
    try:
        figure = draw()
    except ProbeError as error:
        return problem(error)
    return dmc.Paper(figures.graph(name, figure, label, mark=MARK), withBorder=True, p="xs")
