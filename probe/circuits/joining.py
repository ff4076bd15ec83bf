"""One report on the pairs of two tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from probe.report import Report
from probe.report.answer import Answer


def joined_report(
    reports: Sequence[Report], answers: Sequence[Answer], settings: Mapping[str, Any]
) -> Report:
    """The answers with the prompts, notes and counts of two reports on one model; settings of the first, then these."""
    first, second = (report.provenance for report in reports)
    provenance = replace(
        first,
        tokens=first.tokens + second.tokens,
        prompts=first.prompts + second.prompts,
        ended=second.ended,
        settings={**first.settings, "other": second.settings["task"], **settings},
        notes=tuple(dict.fromkeys([*first.notes, *second.notes])),
    )
    return Report(answers, provenance, (*reports[0].prompts, *reports[1].prompts))
