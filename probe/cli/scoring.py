"""Scoring documents for the command line. Imports torch: the command imports this module when it runs."""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.analysis.scoring import ScoreOptions, score
from probe.cli.edits import read_heads
from probe.cli.progress import progress_bar
from probe.cli.score_view import show_scores
from probe.cli.view import console, print_json


@dataclass(frozen=True)
class Request:
    """What the command line asks of a scoring run; `choices` are fields of `ScoreOptions`."""

    model: str
    data: Path
    how: str
    heads: str | None
    choices: dict[str, Any]


def run(request: Request, *, as_json: bool) -> None:
    """Score and print: one JSON object, or the summary and where the scores lie."""
    heads = None if request.heads is None else read_heads(request.heads)
    options = ScoreOptions(**request.choices)
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr), progress_bar() as report:
        found = score(request.model, request.data, request.how, heads, options=options, progress=report)
    if as_json:
        print_json(found.to_json())
    else:
        show_scores(found, console())
