"""An ablation on the terminal: a table of runs, differences with intervals, and what the model wrote."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.analysis.ablation import Ablation
from probe.cli.view import clean, number

_ROWS = (
    ("loss", "nats per token"),
    ("perplexity", ""),
    ("kl_to_base", "nats per position"),
    ("top_changes", "of positions"),
    ("answer_loss", "nats per token of the answers"),
)
_TEXTS = 3  # prompts whose continuations are shown


def show_ablation(found: Ablation, out: Console) -> None:
    """Print a whole ablation."""
    record = found.to_json()
    provenance = found.provenance
    facts = [f"{provenance.tokens} tokens", _prompts(provenance.prompts)]
    if provenance.logit_drift is not None:
        facts.append(f"logit drift {provenance.logit_drift:.1e}")
    out.print(Text(clean(provenance.model.name), style="bold"), Text("  " + " · ".join(facts)))
    for name in found.interventions:
        out.print(clean(name), soft_wrap=True)
    for note in provenance.notes:
        out.print(f"note: {clean(note)}", soft_wrap=True)
    out.print()
    out.print(_table(record))
    out.print()
    _differences(record["ci"], record, out)
    _controls(record, out)
    _texts(record, out)


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count} prompts"


def _table(record: dict[str, Any]) -> Table:
    runs = {name: run for name, run in record["runs"].items() if run is not None}
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    table.add_column("", style="dim")
    for measure, unit in _ROWS:
        if all(run[measure] is None for run in runs.values()):
            continue
        cells = [_cell(measure, run[measure]) for run in runs.values()]
        table.add_row(measure.replace("_", " "), *cells, unit)
    return table


def _cell(measure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if measure == "top_changes":
        return f"{100 * value:.1f} %"
    return f"{value:.4f}" if measure.endswith("loss") else number(value)


def _differences(ci: dict[str, Any], record: dict[str, Any], out: Console) -> None:
    """The edited run's loss against the others', with its interval or why there is none."""
    edited = record["runs"]["edited"]["loss"]
    for other in ("base", "control"):
        run = record["runs"][other]
        if run is None or edited is None or run["loss"] is None:
            continue
        bounds = ci[f"edited_minus_{other}"]["loss"]
        shown = "" if bounds is None else f"  [{bounds[0]:+.4f}, {bounds[1]:+.4f}]"
        out.print(f"loss, edited − {other}: {edited - run['loss']:+.4f} nats{shown}")
    line = f"{100 * ci['level']:g} % bootstrap intervals over {ci['prompts']} prompts"
    out.print(Text(ci["note"] or line, style="dim"))


def _controls(record: dict[str, Any], out: Console) -> None:
    control = record["runs"]["control"]
    for draw in [] if control is None else control["draws"]:
        loss = "-" if draw["loss"] is None else f"{draw['loss']:.4f}"
        heads = _shortened(draw["heads"])
        out.print(
            Text(
                f"control {draw['seed']}: loss {loss}, KL {number(draw['kl_to_base'])}  {heads}", style="dim"
            )
        )


def _shortened(heads: list[str]) -> str:
    return " ".join(heads[:6]) + (f" and {len(heads) - 6} more" if len(heads) > 6 else "")


def _texts(record: dict[str, Any], out: Console) -> None:
    for place, prompt in enumerate(record["by_prompt"][:_TEXTS]):
        texts = {
            name: run["continuations"][place]
            for name, run in record["runs"].items()
            if run is not None and run["continuations"][place] is not None
        }
        if not texts:
            continue
        out.print()
        out.print(Text(f"after prompt {clean(prompt['id'])}", style="bold"))
        for name, made in texts.items():
            differs = prompt[name].get("continuation_differs_at")
            mark = f"  (differs from token {differs} on)" if differs is not None else ""
            out.print(Text.assemble((f"  {name:<9}", "dim"), repr(clean_text(made["text"])), (mark, "dim")))


def clean_text(text: str) -> str:
    """Generated text without control characters; line breaks stay, to be shown as escapes."""
    return "\n".join(clean(line) for line in text.split("\n"))
