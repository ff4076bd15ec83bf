"""Running a sweep for the command line. Imports torch: the command imports this module when it runs."""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe import models, prompts
from probe.analysis.resume import check_output
from probe.analysis.sweeping import SweepOptions
from probe.analysis.sweeping.asked import read_call
from probe.analysis.sweeping.log import unfinished
from probe.analysis.sweeping.plan import Plan, prepare
from probe.analysis.sweeping.sweep import run as measure
from probe.cli.progress import progress_bar
from probe.cli.running import default_folder
from probe.cli.view import console, print_json, show_report
from probe.errors import InputError
from probe.report import Report


@dataclass(frozen=True)
class Request:
    """What the command line asks of a sweep; `choices` are fields of `SweepOptions`."""

    model: str
    source: str | Path | None  # text, a prompts file, or None for the task's own
    asked: tuple[str, str, str]  # how, over, task
    out: Path | None
    device: str | None
    dtype: str | None
    choices: dict[str, Any]


def run(request: Request, *, as_json: bool) -> None:
    """Sweep and print: one JSON object, or the report and where it was saved."""
    options = SweepOptions(**request.choices, out=request.out)
    read_call(*request.asked, options)
    if request.out is not None:
        check_output(request.out)
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr), progress_bar() as report:
        plan = _prepared(request, replace(options, progress=report))
        if request.out is None and not as_json:
            folder = unfinished(models.home() / "runs", plan.fingerprint()) or default_folder(request.model)
            plan = replace(plan, options=replace(plan.options, out=folder))
        found: Report = measure(plan)
    if as_json:
        print_json(found.to_json())
        return
    show_report(found, console())
    console().print(f"\nsaved in {plan.options.out}", soft_wrap=True)


def _prepared(request: Request, options: SweepOptions) -> Plan:
    options.report_progress(0, 0, f"loading {request.model}")
    loaded = models.load(request.model, device=request.device, dtype=request.dtype)
    source: Any = request.source
    if isinstance(source, Path):
        if loaded.tokenizer is None:
            raise InputError(f"{source} was asked; {loaded.name} has no tokenizer to read it with")
        source = prompts.read_prompts(source, loaded.tokenizer)
    options.report_progress(0, 0, f"reading {loaded.name}")
    return prepare(loaded, *request.asked, (source, options))
