"""Continuations on the terminal: in columns where there is one, under one another in a pipe."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.analysis.continuation import Continuation
from probe.analysis.generation import Generations
from probe.cli.view import clean


def show_generations(found: Generations, out: Console) -> None:
    """Print the texts side by side, the first token that differs from the base marked, and what it replaced."""
    out.print(
        Text(clean(found.provenance.model.name), style="bold"),
        Text("  " + clean(found.prompt)),
        soft_wrap=True,
    )
    names = {"base": "base", "edited": "edited: " + " ".join(found.interventions)}
    names["control"] = "control: " + " ".join(found.control_heads)
    for note in found.provenance.notes:
        out.print(f"note: {clean(note)}", soft_wrap=True)
    out.print()
    if out.is_terminal:
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, expand=True)
        for name in found.runs:
            table.add_column(clean(names[name]), ratio=1, overflow="fold")
        table.add_row(*(_marked(run, found.differs_at(name)) for name, run in found.runs.items()))
        out.print(table)
    else:
        for name, run in found.runs.items():
            out.print(clean(names[name]), soft_wrap=True)
            out.print(Text.assemble("  ", _marked(run, None)), soft_wrap=True)
    out.print()
    for name, run in found.runs.items():
        if name != "base":
            out.print(_difference(name, run, found.runs["base"], found.differs_at(name)), soft_wrap=True)


def _marked(run: Continuation, place: int | None) -> Text:
    text = Text()
    for number, piece in enumerate(run.str_tokens):
        text.append(_shown(piece), style="reverse" if number == place else "")
    return text


def _difference(name: str, run: Continuation, base: Continuation, place: int | None) -> str:
    if place is None:
        return f"{name}: the same {len(base.tokens)} tokens as the base"
    return f"{name}: differs from token {place} on: {_token(base, place)} became {_token(run, place)}"


def _token(run: Continuation, place: int) -> str:
    if place >= len(run.tokens):
        return "the end"
    return f"{_shown(run.str_tokens[place])!r} (p {run.probs[place]:.3f})"


def _shown(piece: str) -> str:
    """A token without control characters; line breaks stay."""
    return "\n".join(clean(line) for line in piece.split("\n"))
