"""Scores of documents on the terminal: how many, their losses, quantiles of influence, the top documents."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.analysis.scoring import Scores
from probe.cli.view import clean, number


def show_scores(found: Scores, out: Console) -> None:
    """Print a summary and where the scores lie."""
    record = found.to_json()
    documents, speed = record["documents"], record["provenance"]["settings"]["last_call"]
    facts = f"{documents['total']} documents · {record['tokens']} tokens"
    out.print(Text(clean(record["model"]["name"]), style="bold"), Text(f"  {facts}"))
    out.print(clean(record["intervention"]), soft_wrap=True)
    for note in record["notes"]:
        out.print(f"note: {clean(note)}", soft_wrap=True)
    for reason, count in documents["unscored"].items():
        out.print(f"not scored: {count} documents, {clean(reason)}")
    out.print()
    out.print(_losses(record))
    out.print()
    out.print(_quantiles(record["influence"]["quantiles"]))
    out.print()
    for name, influence in record["influence"]["top"]:
        out.print(f"  {influence:+.4f}  {clean(name)}", soft_wrap=True)
    if speed["documents"]:
        rate = speed["documents"] / max(speed["seconds"], 1e-9)
        tokens = speed["tokens"] / max(speed["seconds"], 1e-9)
        done = f"{speed['documents']} documents in {speed['seconds']:.0f} s"
        line = f"{done}: {number(rate)} documents ({tokens:.0f} tokens) a second"
        out.print(Text(f"\n{line}", style="dim"))
    out.print(f"\nsaved in {found.folder}", soft_wrap=True)


def _losses(record: dict[str, Any]) -> Table:
    table = _table("", "mean over documents", "")
    for name in ("base_loss", "masked_loss", "influence"):
        value = record[name]["mean"]
        table.add_row(name.replace("_", " "), "-" if value is None else f"{value:.4f}", record[name]["unit"])
    return table


def _quantiles(quantiles: dict[str, float | None]) -> Table:
    table = _table("influence", *(f"{100 * float(q):g} %" for q in quantiles))
    table.add_row("quantile", *("-" if value is None else f"{value:+.4f}" for value in quantiles.values()))
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 or not head else "right")
    return table
