"""Claims on the terminal: the list of them, and what one gave on a model."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probe.cli.view import clean, console, print_json
from probe.replay.table import CLAIMS

if TYPE_CHECKING:
    from probe.replay.stored import Stored


def show_list(*, as_json: bool) -> None:
    """Print every claim: name, minutes, paper, models and the claim in one sentence."""
    if as_json:
        rows = [
            {"name": name, **{key: value for key, value in asdict(one).items() if key != "where"}}
            for name, one in CLAIMS.items()
        ]
        print_json({"schema": 1, "claims": rows})
        return
    out = console()
    wide = max(len(name) for name in CLAIMS) + 2
    for name, one in CLAIMS.items():
        facts = f"{one.paper}; {', '.join(one.models)}; about {one.minutes:g} min each"
        out.print(Text.assemble((f"{name:<{wide}}", "bold"), clean(facts)))
        out.print(Padding(clean(one.title), (0, 0, 0, wide)))


def result_json(one: "Stored") -> dict[str, Any]:
    """The JSON object of one result; numbers of rows are objects with value, low and high."""
    finding = one.finding.to_dict()
    return {
        "claim": one.claim,
        "title": CLAIMS[one.claim].title,
        "paper": CLAIMS[one.claim].paper,
        "model": {"name": one.model, "sha256": one.sha256},
        "seed": one.seed,
        "small": one.small,
        **{key: finding[key] for key in ("holds", "but", "brief", "rows", "tables", "found", "how", "heads")},
    }


def show(one: "Stored", out: Console) -> None:
    """Print what a claim gave on one model: verdict, then the paper's number, ours and the control's."""
    title = CLAIMS[one.claim].title
    out.print(Text.assemble((clean(one.model), "bold"), f"   {title}   seed {one.seed}"))
    small = " (a smoke check of few prompts)" if one.small else ""
    out.print(f"the claim {clean(one.finding.verdict)}{small}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("measured", "paper", "here", "control"):
        table.add_column(name, no_wrap=name in {"here", "control"})
    for row in one.finding.rows:
        table.add_row(*(Text(clean(str(cell))) for cell in (row.what, row.paper, row.ours, row.control)))
    out.print(table)
    for line in one.finding.found:
        out.print(Padding(clean(line), (0, 0, 0, 2)))
    out.print()
