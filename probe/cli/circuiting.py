"""Finding circuits for the command line. Imports torch: the command imports this module when it runs."""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe import models
from probe.analysis.resume import check_output
from probe.circuits.asked import Asked, read_call
from probe.cli.circuits_view import show_circuits
from probe.cli.progress import progress_bar
from probe.cli.running import default_folder
from probe.cli.view import console, print_json
from probe.errors import InputError, UsageError
from probe.prompts.pairs import read_pairs
from probe.report import Report


@dataclass(frozen=True)
class Request:
    """What the command line asks: a method as typed with the flags given beside it, and what pairs it runs on."""

    model: str
    asked: tuple[str, Mapping[str, str]]
    pairs: str | Path | None  # a task, a file, or None for the method's own
    out: Path | None
    where: tuple[str | None, str | None]  # device, dtype
    command: str | None  # None: without the prompts' text


def run(request: Request, *, as_json: bool) -> None:
    """Run one method and print: one JSON object, or ranked tables and where the report was saved."""
    asked = read_call(*request.asked)
    if request.pairs is not None and not asked.takes_pairs:
        raise UsageError(
            f"{asked.name} was asked on {request.pairs}; it takes no pairs: leave --task and --pairs out"
        )
    out = request.out if request.out or as_json else default_folder(request.model)
    if out is not None:
        check_output(out)
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr), progress_bar() as report:
        found = _signed(_found(request, asked, report), request.command)
    if out is not None:
        found.save(out)
    if as_json:
        print_json(found.to_json())
        return
    show_circuits(found, console())
    console().print(f"\nsaved in {out}", soft_wrap=True)


def _found(request: Request, asked: Asked, report: Callable[[int, int, str], None]) -> Report:
    device, dtype = request.where
    report(0, 0, f"loading {request.model}")
    loaded = models.load(request.model, device=device, dtype=dtype)
    report(0, 0, f"reading {loaded.name}")
    given: list[Any] = [loaded]
    if isinstance(request.pairs, Path):
        if loaded.tokenizer is None:
            raise InputError(f"{request.pairs} was asked; {loaded.name} has no tokenizer to read it with")
        given.append(read_pairs(request.pairs, loaded.tokenizer))
    elif request.pairs is not None:
        given.append(request.pairs)
    options = {"options": replace(asked.options, progress=report)} if asked.takes_options else {}
    found: Report = asked.function(*given, **asked.values, **options)
    return found


def _signed(found: Report, command: str | None) -> Report:
    """The report with the command that made it; without one, without the prompts' text too."""
    if command is None:
        return found.without_text()
    return Report(found.answers, replace(found.provenance, command=command), found.prompts)
