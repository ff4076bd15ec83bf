"""``probe interventions``: every intervention that ``--how`` and ``--do`` can name."""

from typing import Annotated

import typer


def interventions(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List every intervention: name, one line, parameters, paper."""
    from dataclasses import asdict

    from probe.cli.view import clean, console, print_json
    from probe.interventions.listing import common, listed

    found = listed()
    if as_json:
        rows = [asdict(one) for one in found]
        print_json({"schema": 1, "interventions": rows, "common": list(common())})
        return
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    wide = max(len(one.name) for one in found) + 2
    for one in found:
        facts = "; ".join(
            [*([", ".join(one.parameters)] if one.parameters else []), *(f"arXiv:{p}" for p in one.papers)]
        )
        out.print(Text.assemble((f"{clean(one.name):<{wide}}", "bold"), clean(facts)))
        out.print(Padding(clean(one.summary), (0, 0, 0, wide)))
    out.print(
        f"\nwrite NAME:k=v,k=v with lists joined by +; all take {', '.join(common())} where they apply; "
        "what stands in [] has no default",
        markup=False,
    )
