"""A report on the terminal: what was run, then per metric a strip of layers and the top heads."""

import json
import math
import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from probe.cli.strip import mean, ruler, strip
from probe.report import Answer, Provenance, Report
from probe.report.baseline import baseline_of
from probe.report.ranking import cells, head_axis, top_heads

_LABEL = 10  # width of the column of labels
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """A console that prints strings as they are: no markup, no guessed highlights, NO_COLOR honoured."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)


def clean(text: str) -> str:
    """A string from outside without control characters, which could move the cursor or change colours."""
    return _CONTROL.sub("�", text)


def print_json(found: dict[str, Any]) -> None:
    """Print one JSON object on standard output; NaN, which JSON has no word for, is an error here."""
    sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")


def show_report(report: Report, out: Console) -> None:
    """Print a whole report."""
    show_header(report.provenance, out)
    for key, answer in zip(report.keys(), report.answers, strict=True):
        out.print()
        _answer(key, answer, out)


def show_header(provenance: Provenance, out: Console) -> None:
    """Print what was run: model, tokens, prompts, and notes on the whole run."""
    facts = [f"{provenance.tokens} tokens", f"{provenance.prompts} prompts", f"mode {provenance.mode}"]
    if provenance.prompts == 1:
        facts[1] = "1 prompt"
    if provenance.logit_drift is not None:
        facts.append(f"logit drift {provenance.logit_drift:.1e}")
    out.print(Text(clean(provenance.model.name), style="bold"), Text("  " + " · ".join(facts)))
    if provenance.unseen_layers:
        out.print(f"unseen layers: {clean(', '.join(provenance.unseen_layers))}")
    if provenance.fallback_layers:
        out.print(f"seen only as returned weights: {clean(', '.join(provenance.fallback_layers))}")
    for note in provenance.notes:
        out.print(f"note: {clean(note)}")


def _answer(key: str, answer: Answer, out: Console) -> None:
    found = list(cells(answer.head_map))
    defined = [value for _, _, value in found if math.isfinite(value)]
    out.print(Text(clean(key), style="bold"), Text(f"({clean(answer.unit)}) {clean(answer.summary)}"))
    if head_axis(answer.head_map) == "model":
        out.print(_row("model", number(defined[0]) if defined else "the value is not defined"))
    elif not defined:
        out.print(_row("", "no head has a defined value"))
    else:
        _strips(found, (min(defined), max(defined)), answer, out)
        out.print(_row("top", _top(answer, out.width - _LABEL)))
        _baseline(answer, (min(defined), max(defined)), out)
    for note in answer.notes:
        out.print(_row("note", clean(note)))


def _baseline(answer: Answer, scale: tuple[float, float], out: Console) -> None:
    """The layer means of the untrained model on the same scale, where a baseline was asked."""
    other = baseline_of(answer)
    if other is None:
        return
    layers: dict[int, list[float]] = {}
    for layer, _, value in cells(other):
        layers.setdefault(layer, []).append(value)
    plain = "utf" not in (out.encoding or "").lower()
    means = [mean(values) for values in layers.values()]
    out.print(_row("base", strip(means, scale, out.width - _LABEL, plain=plain)))


def _strips(
    found: list[tuple[int, int, float]], scale: tuple[float, float], answer: Answer, out: Console
) -> None:
    layers: dict[int, list[float]] = {}
    for layer, _, value in found:
        layers.setdefault(layer, []).append(value if math.isfinite(value) else math.nan)
    width = out.width - _LABEL
    plain = "utf" not in (out.encoding or "").lower()
    end = max if answer.better == "high" else min
    means = [mean(values) for values in layers.values()]
    best = [end((v for v in values if not math.isnan(v)), default=math.nan) for values in layers.values()]
    out.print(_row("layer", ruler(list(layers), width)))
    out.print(_row("mean", strip(means, scale, width, plain=plain)))
    out.print(
        _row("highest" if answer.better == "high" else "lowest", strip(best, scale, width, plain=plain))
    )
    out.print(_row("scale", f"{number(scale[0])} to {number(scale[1])}"))


def _top(answer: Answer, width: int) -> str:
    line = ""
    for name, score in top_heads(answer, 10):
        item = f"{name} {number(score)}"
        if line and len(line) + 3 + len(item) > width:
            break
        line = f"{line}   {item}" if line else item
    return line


def _row(label: str, content: str | Text) -> Text:
    return Text.assemble((f"  {label:<{_LABEL - 2}}", "dim"), content, no_wrap=False)


def number(value: float) -> str:
    """A value with three significant digits, or all those before the point.

    >>> number(0.97132), number(1234.5), number(0.0)
    ('0.971', '1234', '0')
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
