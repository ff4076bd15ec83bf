"""``probe show``: a saved report on the terminal. Needs no torch."""

from pathlib import Path
from typing import Annotated

import typer


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved report.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME", help="Only this metric; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show a saved report."""
    from probe.cli.pattern_view import show_patterns
    from probe.cli.view import console, print_json, show_report
    from probe.report import Report, open_report
    from probe.report.pattern_costs import pattern_json, pattern_specs

    report = open_report(folder)
    if metric:
        answers = [report.answer(key) for key in dict.fromkeys(metric)]
        report = Report(answers, report.provenance, report.prompts)
    patterns = bool(pattern_specs(report)) and not metric
    if as_json:
        print_json(pattern_json(report) if patterns else report.to_json())
    elif patterns:
        show_patterns(report, console())
    else:
        show_report(report, console())
