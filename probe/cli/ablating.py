"""Running an ablation for the command line. Imports torch: the command imports this module when it runs."""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe import models, prompts
from probe.analysis.ablation import AblateOptions, Ablation, ablate
from probe.analysis.resume import check_output
from probe.cli.ablation_view import show_ablation
from probe.cli.edits import read_how
from probe.cli.progress import progress_bar
from probe.cli.view import console, print_json
from probe.errors import InputError


@dataclass(frozen=True)
class Request:
    """What the command line asks of an ablation; `choices` are fields of `AblateOptions`."""

    model: str
    source: str | Path | None  # text, a prompts file, or None for the shipped text
    how: list[str]
    heads: str | None
    device: str | None
    dtype: str | None
    choices: dict[str, Any]


def run(request: Request, *, as_json: bool) -> None:
    """Ablate and print: one JSON object, or tables and texts and where they were saved."""
    edits = read_how(request.how, request.heads)
    options = AblateOptions(**request.choices)
    if options.out is not None:
        check_output(Path(options.out))
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr), progress_bar() as report:
        found = _ablate(request, edits, options, report)
    if as_json:
        print_json(found.to_json())
        return
    show_ablation(found, console())
    if options.out is not None:
        console().print(f"\nsaved in {options.out}", soft_wrap=True)


def _ablate(request: Request, edits: list[Any], options: AblateOptions, report: Any) -> Ablation:
    report(0, 0, f"loading {request.model}")
    loaded = models.load(request.model, device=request.device, dtype=request.dtype)
    source: Any = request.source
    if isinstance(source, Path):
        if loaded.tokenizer is None:
            raise InputError(f"{source} was asked; {loaded.name} has no tokenizer to read it with")
        source = prompts.read_prompts(source, loaded.tokenizer)
    return ablate(loaded, source, edits, options=options, progress=report)
