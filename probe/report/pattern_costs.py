"""What sparse patterns cost, as a report holds it: which answers belong to which pattern, and their JSON object."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from probe.report.answer import Answer
from probe.report.json_form import SCHEMA, finite, head_map_json
from probe.report.report import Report

# Every pattern's numbers per head; the key of each is SPEC/NUMBER, its control's SPEC/control/NUMBER.
NUMBERS = ("density", "mass_kept", "mass_kept_p5", "mass_kept_min", "output_error")
CONTROL = "control"
APPLIED = (
    "applied"  # an array with axes (run, measure) beside mass_kept: the model with the pattern put into it
)
RETRIEVAL = "retrieval"
LOST = 0.9  # a head whose mean mass kept is below it counts as losing its mass

Numbers = Mapping[str, Answer]


def pattern_specs(report: Report) -> dict[str, str]:
    """The patterns that a report is about, as typed, with their whole names; none in a report of anything else."""
    found = report.provenance.settings.get("patterns")
    return {str(spec): str(name) for spec, name in found.items()} if isinstance(found, Mapping) else {}


def numbers_of(report: Report, spec: str, *, control: bool = False) -> Numbers:
    """A pattern's answers by number, or those of its control; empty where there is none."""
    prefix = f"{spec}/{CONTROL}/" if control else f"{spec}/"
    found = {answer.spec: answer for answer in report.answers}
    return {name: found[prefix + name] for name in NUMBERS if prefix + name in found}


def retrieval_of(report: Report) -> Answer | None:
    """The retrieval scores of the same heads, where they were measured."""
    return next((one for one in report.answers if one.name == RETRIEVAL), None)


def pattern_json(report: Report) -> dict[str, Any]:
    """The object that ``probe patterns --json`` prints: schema 1, head maps by pattern and number."""
    record = finite(report.provenance.to_dict())
    retrieval = retrieval_of(report)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "model": record["model"],
        "tokens": report.provenance.tokens,
        "mode": report.provenance.mode,
        "patterns": {
            spec: {"name": name, **_pattern(report, spec)} for spec, name in pattern_specs(report).items()
        },
        "provenance": record,
    }
    if retrieval is not None:
        found[RETRIEVAL] = {"spec": retrieval.spec, **head_map_json(retrieval.head_map)}
    return found


def applied_of(numbers: Numbers) -> dict[str, dict[str, float]]:
    """What the model's predictions are worth, by run (``base``, ``edited``) and measure; empty unless applied."""
    array = numbers["mass_kept"].extra.get(APPLIED) if "mass_kept" in numbers else None
    if array is None:
        return {}
    measures = [str(one) for one in array.coords["measure"].values]
    return {
        str(run): dict(zip(measures, np.asarray(array.sel(run=run).values, np.float64).tolist(), strict=True))
        for run in array.coords["run"].values
    }


def _pattern(report: Report, spec: str) -> dict[str, Any]:
    numbers, control = numbers_of(report, spec), numbers_of(report, spec, control=True)
    found: dict[str, Any] = _maps(numbers)
    found["notes"] = list(numbers["mass_kept"].notes)
    if control:
        found[CONTROL] = _maps(control)
    applied = applied_of(numbers)
    return found | ({APPLIED: finite(applied)} if applied else {})


def _maps(numbers: Numbers) -> dict[str, Any]:
    return {name: {"unit": one.unit, **head_map_json(one.head_map)} for name, one in numbers.items()}


def head_values(head_map: xr.DataArray) -> np.ndarray:
    """The defined values of a head map, in one row."""
    values = np.asarray(head_map.values, np.float64).ravel()
    found: np.ndarray = values[np.isfinite(values)]
    return found
