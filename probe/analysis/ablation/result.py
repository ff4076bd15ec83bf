"""What an ablation found: every measure of every run, per prompt and in total, with intervals over prompts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.analysis.ablation.intervals import intervals
from probe.analysis.ablation.measures import WEIGHTS, RunScores, mean_run, pooled
from probe.analysis.files import replace_file
from probe.report.json_form import SCHEMA, finite
from probe.report.provenance import Provenance

FILE = "ablation.json"


@dataclass(frozen=True)
class Ablation:
    """Base, edited and control runs of a model on the same prompts.

    Attributes:
        interventions: Their names, in the order in which they applied.
        prompts: The prompts' ids.
        weights: Per prompt: ``predicted`` tokens, ``positions``, ``answer_tokens``.
        base: The model as it is.
        edited: Under the interventions.
        controls: Under the same on other heads, one run per draw; empty where none could be drawn.
        provenance: Where the numbers came from, and lines that their reader must see.
        level: Level of the intervals.
    """

    interventions: tuple[str, ...]
    prompts: tuple[str, ...]
    weights: Mapping[str, np.ndarray] = field(repr=False)
    base: RunScores = field(repr=False)
    edited: RunScores = field(repr=False)
    controls: tuple[RunScores, ...] = field(repr=False)
    provenance: Provenance = field(repr=False)
    level: float = 0.95

    @property
    def values(self) -> dict[str, Mapping[str, np.ndarray]]:
        """Run -> measure -> value per prompt; the control is the mean over its draws."""
        found = {"base": mean_run([self.base]), "edited": mean_run([self.edited])}
        if self.controls:
            found["control"] = mean_run(self.controls)
        return found

    def total(self, run: str, measure: str) -> float:
        """A measure's mean over all prompts, every position counting alike; NaN where it is undefined."""
        return pooled(self.values[run][measure], self.weights[WEIGHTS[measure]])

    @property
    def ci(self) -> dict[str, Any]:
        """Bootstrap intervals over prompts, see `intervals`."""
        return intervals(self.values, self.weights, self.level, self.provenance.seed)

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt and run, one column per measure (and the number of positions behind it)."""
        rows = [
            {"prompt": prompt, "run": run, **{name: values[name][number] for name in WEIGHTS}}
            | {name: int(count[number]) for name, count in self.weights.items()}
            for number, prompt in enumerate(self.prompts)
            for run, values in self.values.items()
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """One JSON object, schema 1: totals by run, values by prompt, intervals, provenance; undefined values null."""
        record = self.provenance.to_dict()
        runs: dict[str, Any] = {
            "base": self._run("base", self.base),
            "edited": self._run("edited", self.edited),
            "control": self._run("control", self.controls[0]) if self.controls else None,
        }
        if self.controls:
            runs["control"]["draws"] = [self._draw(one) for one in self.controls]
        found = {
            "schema": SCHEMA,
            "model": record["model"],
            "intervention": list(self.interventions),
            "runs": runs,
            "by_prompt": [self._prompt(number) for number in range(len(self.prompts))],
            "ci": self.ci,
            "notes": list(self.provenance.notes),
            "provenance": record,
        }
        return dict(finite(found))

    def save(self, folder: str | Path) -> Path:
        """Write ``ablation.json`` into a folder, whole or not at all; raises `OutputError` where that fails."""
        path = Path(folder) / FILE
        text = json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False, indent=1)
        replace_file(path, (text + "\n").encode())
        return path

    def _run(self, name: str, texts: RunScores) -> dict[str, Any]:
        found: dict[str, Any] = {measure: self.total(name, measure) for measure in WEIGHTS}
        found["perplexity"] = _exp(found["loss"])
        found["continuations"] = [
            None if one.continuation is None else one.continuation.to_dict() for one in texts.prompts
        ]
        return found

    def _draw(self, one: RunScores) -> dict[str, Any]:
        totals = {name: pooled(one.values(name), self.weights[weight]) for name, weight in WEIGHTS.items()}
        return {"seed": one.seed, "heads": list(one.heads), **totals}

    def _prompt(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = {"id": self.prompts[number]}
        found |= {name: int(count[number]) for name, count in self.weights.items()}
        base = self.base.prompts[number].continuation
        for run, values in self.values.items():
            found[run] = {name: float(values[name][number]) for name in WEIGHTS}
            found[run]["perplexity"] = _exp(found[run]["loss"])
        for run, scores in (("edited", self.edited), ("control", next(iter(self.controls), None))):
            other = None if scores is None else scores.prompts[number].continuation
            if base is not None and other is not None:
                found[run]["continuation_differs_at"] = base.differs_at(other)
        return found


def _exp(loss: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(loss))
