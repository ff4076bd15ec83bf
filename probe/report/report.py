"""The report: labelled answers and where they came from; all that any plot, page or command ever sees."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from probe.errors import ReportError
from probe.report import intervals, reading, writing
from probe.report.answer import Answer
from probe.report.html import report_html
from probe.report.json_form import finite, report_json
from probe.report.lookup import find, key_of
from probe.report.prompt_record import PromptRecord
from probe.report.provenance import Provenance
from probe.report.ranking import cells, head_axis, ranked
from probe.report.sharing import without_text


class Report:
    """Answers of one run with their provenance, and the prompts unless the report is text-free.

    ``report["entropy"]`` is the head map of a metric: axes (layer, head), in the metric's unit. A key is
    the spec as typed (``"sink:n=4"``); a bare name will do where it is unambiguous, ``"entropy@encoder"``
    names a tower.
    """

    def __init__(
        self, answers: Sequence[Answer], provenance: Provenance, prompts: Sequence[PromptRecord] = ()
    ) -> None:
        self.answers = tuple(answers)
        self.provenance = provenance
        self.prompts = tuple(prompts)
        seen: set[tuple[str, str]] = set()
        for answer in self.answers:
            if (answer.spec, answer.tower) in seen:
                raise ReportError(
                    f"{answer.spec!r} was asked twice for tower {answer.tower!r}; give each spec once"
                )
            seen.add((answer.spec, answer.tower))

    def keys(self) -> list[str]:
        """The key of every answer, in order."""
        return [key_of(answer, self.answers) for answer in self.answers]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.answers)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, key: str) -> xr.DataArray:
        return self.answer(key).head_map

    def answer(self, key: str, tower: str | None = None) -> Answer:
        """The whole answer of `key`: head map, values per prompt, token maps, notes.

        Raises:
            ReportError: no answer, or several, of that key; the message lists the keys.
        """
        return find(self.answers, key, tower)

    def top(self, key: str, n: int = 10, tower: str | None = None) -> pd.DataFrame:
        """The first `n` heads, columns layer, head, score: the metric's better end first, undefined last.

        Where a layer has one value, `head` is 0; a number of the whole model is of layer -1.
        """
        if n < 0:
            raise ReportError(f"the top {n} heads were asked; ask for 0 or more")
        return ranked(self.answer(key, tower)).head(n)

    def to_frame(self) -> pd.DataFrame:
        """One row per head and answer: metric, tower, layer, axis (head, …, layer, model), head, value, unit."""
        rows = [
            (key, answer.tower, layer, head_axis(answer.head_map), head, value, answer.unit)
            for key, answer in zip(self.keys(), self.answers, strict=True)
            for layer, head, value in cells(answer.head_map)
        ]
        return pd.DataFrame(rows, columns=["metric", "tower", "layer", "axis", "head", "value", "unit"])

    def intervals(self, key: str, level: float = 0.95, seed: int = 0) -> xr.DataArray:
        """Bootstrap interval over prompts, axes (bound, layer, head): `probe.report.intervals.bootstrap`."""
        return intervals.bootstrap(self.answer(key), level, seed)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints: schema 1, head maps only, undefined values null."""
        return report_json(self.answers, self.provenance)

    def bibtex(self) -> str:
        """The BibTeX entry of every metric's paper, each once."""
        return "\n\n".join(dict.fromkeys(a.bibtex.strip() for a in self.answers if a.bibtex.strip()))

    def without_text(self) -> "Report":
        """The same numbers with no prompt text, token, prompt name or command line: a report to share.

        A note of each answer names the labels and arrays that were left out with the text.
        """
        return Report(*without_text(self.answers, self.provenance, self.prompts))

    def save(self, folder: str | os.PathLike[str], *, replace: bool = False) -> Path:
        """Write the report to `folder` and return its path.

        Args:
            folder: A folder that is empty or does not exist yet.
            replace: Also write into a folder that holds other files; an earlier report there is replaced.

        Raises:
            OutputError: the folder is not empty, or cannot be written. Nothing is half-written.
        """
        path = Path(folder)
        if not replace:
            writing.check_folder(path)
        writing.write(writing.encode(self.answers, self.provenance, self.prompts), path)
        return path

    def identical(self, other: "Report") -> bool:
        """Whether the two hold the same answers, labels, prompts and provenance, value by value."""
        return (
            len(self) == len(other)
            and self.prompts == other.prompts
            and _text(self.provenance) == _text(other.provenance)
            and all(map(_same, self.answers, other.answers))
        )

    def __repr__(self) -> str:
        model, tokens = self.provenance.model.name, self.provenance.tokens
        return f"<probe.Report of {model!r}: {', '.join(self.keys()) or 'no answers'}; {tokens} tokens>"

    def _repr_html_(self) -> str:
        return report_html(self.answers, self.provenance)


def open_report(folder: str | os.PathLike[str]) -> Report:
    """Open a saved report; torch is not needed.

    Raises:
        ReportError: a file is missing, damaged, of another schema, or belongs to another report.
    """
    return Report(*reading.read(Path(folder)))


def _text(provenance: Provenance) -> str:
    return json.dumps(finite(provenance.to_dict()), sort_keys=True)


def _same(one: Answer, two: Answer) -> bool:
    texts = all(getattr(one, name) == getattr(two, name) for name in (*writing.TEXT_FIELDS, "notes"))
    return (
        texts
        and one.head_map.identical(two.head_map)
        and (one.by_prompt is None) == (two.by_prompt is None)
        and (one.by_prompt is None or two.by_prompt is None or one.by_prompt.identical(two.by_prompt))
        and _same_arrays(one.token_maps, two.token_maps)
        and _same_arrays(one.extra, two.extra)
    )


def _same_arrays(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(one[name].identical(two[name]) for name in one)
