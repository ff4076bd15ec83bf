"""``probe metrics``: every metric and experiment that this installation knows."""

from typing import Annotated

import typer


def metrics(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List every metric: name, one line, unit, paper, and the suites that hold it."""
    from probe.analysis.suites import suites_with
    from probe.cli.view import clean, console, print_json
    from probe.metrics import metric_infos

    infos = sorted(metric_infos(), key=lambda info: info.name)
    if as_json:
        rows = [
            {
                "name": info.name,
                "summary": info.summary,
                "unit": info.unit,
                "better": info.better,
                "paper": info.paper,
                "bibtex": info.bibtex,
                "suites": suites_with(info.name),
            }
            for info in infos
        ]
        print_json({"schema": 1, "metrics": rows})
        return
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    wide = max(len(info.name) for info in infos) + 2
    for info in infos:
        suites = suites_with(info.name)
        held = f"; suite {', '.join(suites)}" if suites else ""
        facts = f"{clean(info.unit)}; {clean(info.paper)}{held}"
        out.print(Text.assemble((f"{clean(info.name):<{wide}}", "bold"), facts))
        out.print(Padding(clean(info.summary), (0, 0, 0, wide)))
