"""What patterns cost, on the terminal: a row for each pattern, the heads that lose, and what the model loses."""

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.cli.view import clean, number, show_header
from probe.report import Report
from probe.report.pattern_costs import (
    LOST,
    Numbers,
    applied_of,
    head_values,
    numbers_of,
    pattern_specs,
    retrieval_of,
)
from probe.report.ranking import top_heads

_MEASURES = (
    ("loss", "nats per token"),
    ("perplexity", ""),
    ("kl_to_base", "nats per position"),
    ("top_changes", "share of positions"),
    ("answer_loss", "nats per token of the answers"),
    ("answer_recall", "ROUGE-1 of the answers"),
    ("retrieved", "share of prompts"),
)


def show_patterns(report: Report, out: Console) -> None:
    """Print a whole report on patterns."""
    show_header(report.provenance, out)
    specs = list(pattern_specs(report))
    out.print()
    out.print(_table(report, specs))
    for spec in specs:
        numbers = numbers_of(report, spec)
        out.print()
        out.print(Text(clean(spec), style="bold"))
        for note in numbers["mass_kept"].notes:
            out.print(f"  {clean(note)}", soft_wrap=True)
        _applied(numbers, out)
    retrieval = retrieval_of(report)
    if retrieval is not None:
        best = "   ".join(f"{name} {number(score)}" for name, score in top_heads(retrieval, 5))
        out.print()
        out.print(Text("retrieval heads", style="bold"), best, soft_wrap=True)


def _table(report: Report, specs: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("pattern", overflow="fold")
    table.add_column("density", justify="right")
    table.add_column("mass kept", justify="right")
    table.add_column("worst head", justify="right", no_wrap=True)
    table.add_column(f"below {LOST:g}", justify="right")
    table.add_column("error", justify="right")
    for spec in specs:
        table.add_row(Text(clean(spec)), *_cells(numbers_of(report, spec)))
        control = numbers_of(report, spec, control=True)
        if control:
            table.add_row(Text("  random blocks, as dense"), *_cells(control), style="dim")
    return table


def _cells(numbers: Numbers) -> list[str]:
    mass = head_values(numbers["mass_kept"].head_map)
    if not len(mass):
        return ["-"] * 5
    density, error = (head_values(numbers[name].head_map) for name in ("density", "output_error"))
    (name, least), *_ = top_heads(numbers["mass_kept"], 1)
    return [
        number(float(np.mean(density))),
        number(float(np.mean(mass))),
        f"{name} {number(least)}",
        f"{int((mass < LOST).sum())} of {len(mass)}",
        number(float(np.mean(error))) if len(error) else "-",
    ]


def _applied(numbers: Numbers, out: Console) -> None:
    """The model with the pattern put into it, beside the model as it is."""
    runs = applied_of(numbers)
    if not runs:
        return
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("  applied")
    for name in ("dense", "sparse"):
        table.add_column(name, justify="right")
    table.add_column("", style="dim")
    for measure, unit in _MEASURES:
        values = [runs[run][measure] for run in ("base", "edited")]
        if np.isfinite(values).any():
            table.add_row("  " + measure.replace("_", " "), *map(number, values), unit)
    out.print(table)
