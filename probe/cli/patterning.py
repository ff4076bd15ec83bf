"""Running a measurement of patterns for the command line. Imports torch: the command imports this when it runs."""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe import models, prompts
from probe.analysis.patterning import PatternOptions, patterns
from probe.analysis.patterning.plan import read_patterns
from probe.analysis.resume import check_output
from probe.cli.pattern_view import show_patterns
from probe.cli.progress import progress_bar
from probe.cli.running import default_folder
from probe.cli.view import console, print_json
from probe.errors import InputError
from probe.report import Report
from probe.report.pattern_costs import pattern_json


@dataclass(frozen=True)
class Request:
    """What the command line asks of a measurement of patterns; `choices` are fields of `PatternOptions`."""

    model: str
    source: str | Path | None  # text, a prompts file, or None for the shipped text
    patterns: list[str]
    out: Path | None
    choices: dict[str, Any]


def run(request: Request, *, as_json: bool) -> None:
    """Measure and print: one JSON object, or tables and where the report was saved."""
    out = request.out if request.out or as_json else default_folder(request.model)
    options = PatternOptions(**request.choices, out=out)
    read_patterns(request.patterns)
    if out is not None:
        check_output(out)
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr), progress_bar() as report:
        found = _measured(request, options, report)
    if as_json:
        print_json(pattern_json(found))
        return
    show_patterns(found, console())
    console().print(f"\nsaved in {out}", soft_wrap=True)


def _measured(request: Request, options: PatternOptions, report: Any) -> Report:
    report(0, 0, f"loading {request.model}")
    loaded = models.load(request.model, device=options.device, dtype=options.dtype)
    source: Any = request.source
    if isinstance(source, Path):
        if loaded.tokenizer is None:
            raise InputError(f"{source} was asked; {loaded.name} has no tokenizer to read it with")
        source = prompts.read_prompts(source, loaded.tokenizer)
    # The model is where and what it should be: asking again would be refused.
    there = replace(options, device=None, dtype=None, progress=report)
    return patterns(loaded, source, request.patterns, options=there)
