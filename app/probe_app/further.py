"""What a report holds besides head maps, as figures: grids of tests, rhythm, sentences, and the taxonomy of heads."""

from collections.abc import Callable, Iterator
from functools import partial

import dash_mantine_components as dmc
import plotly.graph_objects as go

from probe.errors import ProbeError
from probe.plots import retrieval_grid, sentence_map, taxonomy_map, token_rhythm
from probe.report import Report
from probe.report.answer import Answer
from probe.report.taxonomy import taxonomy
from probe_app import figures
from probe_app.said import problem
from probe_app.sentences import sentence_texts

MARK = "further"


def further(report: Report) -> list[object]:
    """A card for each answer that has a picture of its own."""
    cards: list[object] = []
    for key, answer in zip(report.keys(), report.answers, strict=True):
        for name, label, draw in _drawings(report, key, answer):
            try:
                figure = draw()
            except ProbeError as error:
                cards.append(problem(error))
                continue
            cards.append(dmc.Paper(figures.graph(name, figure, label, mark=MARK), withBorder=True, p="xs"))
    return cards


def _drawings(report: Report, key: str, answer: Answer) -> Iterator[tuple[str, str, Callable[[], go.Figure]]]:
    extra = answer.extra
    texts = report.prompts[0].str_tokens if report.prompts else None
    if {"gate", "top_head"} <= set(extra):
        yield (
            f"{key}/tests",
            f"Tests of {key}",
            lambda: retrieval_grid(answer, title=answer.spec.partition(":")[0]),
        )
    if {"waad", "fai", "peak:waad"} <= set(extra):
        yield f"{key}/rhythm", f"Rhythm of {key}", lambda: token_rhythm(answer, tokens=texts or None)
    said = sentence_texts(report, answer, 0) if "start" in extra and "map" in extra else None
    for name in ("map", "suppression"):
        if name in extra and "sentence" in " ".join(map(str, extra[name].dims)):
            yield f"{key}/{name}", f"Sentences of {key}", partial(sentence_map, answer, name, sentences=said)


def heads_by_kind(report: Report) -> object:
    """The taxonomy of a report's heads as a map, with what tells the clusters apart."""
    try:
        found = taxonomy(report)
    except ProbeError as error:
        return problem(error)
    figure = taxonomy_map(found, title="Heads by profile")
    notes = [dmc.Text(note, size="xs", c="dimmed") for note in found.notes]
    return dmc.Paper(
        [figures.graph("taxonomy", figure, "Taxonomy of heads", mark=MARK), *notes], withBorder=True, p="xs"
    )
