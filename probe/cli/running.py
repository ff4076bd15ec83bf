"""Running an analysis for the command line. Imports torch: commands import this module when they run."""

import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from probe import metrics, models, prompts
from probe.analysis import AnalyzeOptions, Forecast, analyze, forecast
from probe.analysis.resume import check_output
from probe.analysis.suites import PREFIX, suite
from probe.cli.costs import show_forecast
from probe.cli.progress import progress_bar
from probe.cli.view import console, print_json, show_report
from probe.errors import InputError, UsageError
from probe.report import Report
from probe.terms import DEFAULT_METRICS

# Small enough for the default run: see the experiment's own defaults for the whole protocol.
SMALL_RETRIEVAL = "retrieval:lengths=500,depths=0.1+0.5+0.9,needles=2"


@dataclass(frozen=True)
class Request:
    """What the command line asks of an analysis; `choices` are fields of `AnalyzeOptions`."""

    model: str
    source: str | Path | None  # text, a prompts file, or None for the shipped text
    metrics: list[str] | None
    out: Path | None
    choices: dict[str, Any]


def run(request: Request, *, as_json: bool, dry_run: bool) -> None:
    """Analyze (or forecast), and print: one JSON object, or the report and where it was saved."""
    unsaved = as_json and not dry_run
    out = request.out if request.out or unsaved else default_folder(request.model)
    options = AnalyzeOptions(**request.choices, out=out)
    specs = check_specs(request.metrics)
    if out is not None:
        check_output(out)
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr):
        found = _forecast(request, specs, options) if dry_run else _analyze(request, specs, options)
    if isinstance(found, Forecast):
        show_forecast(found, as_json=as_json)
    elif as_json:
        print_json(found.to_json())
    else:
        show_report(found, console())
        console().print(f"\nsaved in {out}", soft_wrap=True)


def check_specs(specs: list[str] | None) -> list[str] | str | None:
    """The metrics to ask for, each one built once to see that its name and parameters are right."""
    if not specs:
        return None
    if "all" in specs:
        if len(specs) > 1:
            raise UsageError(
                f"--metric {' --metric '.join(specs)} was asked; all stands alone: give it or a list"
            )
        return "all"
    for spec in specs:
        if spec.startswith(PREFIX):
            suite(spec.removeprefix(PREFIX))
        else:
            metrics.make(spec)
    return list(dict.fromkeys(specs))


def default_folder(model: str) -> Path:
    """Where a run goes without ``--out``: ``runs/<time>-<model>`` under the data folder, never one that exists."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name or "model")[:60]
    stem = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}"
    folder = models.home() / "runs" / stem
    number = 2
    while folder.exists():
        folder = folder.with_name(f"{stem}-{number}")
        number += 1
    return folder


def default_metrics(loaded: models.LoadedModel) -> list[str]:
    """The default metrics, and a small retrieval run for a model that generates from a prompt alone."""
    config = getattr(loaded.model, "config", None)
    generates = getattr(loaded.model, "can_generate", lambda: False)()
    decodes = generates and not getattr(config, "is_encoder_decoder", False)
    return [*DEFAULT_METRICS, *([SMALL_RETRIEVAL] if decodes and loaded.tokenizer is not None else [])]


@dataclass(frozen=True)
class _Ready:
    """What `probe.analyze` and `probe.forecast` take: a loaded model, prompts, metrics."""

    loaded: models.LoadedModel
    prompts: Any
    metrics: list[str] | str


def _load(request: Request, specs: list[str] | str | None, options: AnalyzeOptions) -> _Ready:
    loaded = models.load(request.model, device=options.device, dtype=options.dtype)
    wanted = default_metrics(loaded) if specs is None else specs
    if not isinstance(request.source, Path):
        return _Ready(loaded, request.source, wanted)
    if loaded.tokenizer is None:
        raise InputError(f"{request.source} was asked; {loaded.name} has no tokenizer to read it with")
    return _Ready(loaded, prompts.read_prompts(request.source, loaded.tokenizer), wanted)


def _analyze(request: Request, specs: list[str] | str | None, options: AnalyzeOptions) -> Report:
    with progress_bar() as report:
        report(0, 0, f"loading {request.model}")
        ready = _load(request, specs, options)
        report(0, 0, f"reading {ready.loaded.name}")
        # The model is where and what it should be: asking again would be refused.
        there = replace(options, device=None, dtype=None, progress=report)
        return analyze(ready.loaded, ready.prompts, ready.metrics, options=there)


def _forecast(request: Request, specs: list[str] | str | None, options: AnalyzeOptions) -> Forecast:
    ready = _load(request, specs, options)
    there = replace(options, device=None, dtype=None)
    return forecast(ready.loaded, ready.prompts, ready.metrics, there)
