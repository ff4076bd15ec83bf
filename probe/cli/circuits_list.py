"""The methods and tasks of ``probe circuits``, listed. Needs no torch."""

from rich.padding import Padding
from rich.text import Text

from probe.circuits.table import ALIASES, METHODS
from probe.cli.view import console, print_json
from probe.prompts.pairs.table import PAIR_TASKS


def show_list(*, as_json: bool) -> None:
    """Print every method with its short name and paper, and every task."""
    short = {full: name for name, full in ALIASES.items()}
    if as_json:
        methods = [
            {"name": name, "alias": short.get(name), "summary": one.summary, "paper": one.paper}
            for name, one in METHODS.items()
        ]
        tasks = [
            {"name": name, "summary": one.summary, "paper": one.paper} for name, one in PAIR_TASKS.items()
        ]
        print_json({"schema": 1, "methods": methods, "tasks": tasks})
        return
    out = console()
    wide = max(map(len, (*METHODS, *PAIR_TASKS))) + 2
    for title, entries in (("methods", METHODS), ("tasks", PAIR_TASKS)):
        out.print(Text(title, style="bold"))
        for name, one in entries.items():
            alias = f"; short: {short[name]}" if title == "methods" and name in short else ""
            out.print(Text.assemble((f"{name:<{wide}}", "bold"), f"{one.paper}{alias}"))
            out.print(Padding(one.summary, (0, 0, 0, wide)))
        out.print()
    out.print("write --method NAME:k=v,k=v with lists joined by +")
