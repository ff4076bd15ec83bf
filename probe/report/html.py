"""A report in a notebook: plain HTML tables, no script, nothing fetched, every string escaped."""

import math
from collections.abc import Sequence
from html import escape

from probe.report.answer import Answer
from probe.report.lookup import key_of
from probe.report.provenance import Provenance
from probe.report.ramp import fraction, rgb
from probe.report.ranking import cells, head_axis, head_name, top_heads

MAX_CELLS = 6000  # above, a table would weigh on the notebook: only the top heads are shown
_CELL = "width:1.1em;height:1.1em;padding:0;border:0"


def report_html(answers: Sequence[Answer], provenance: Provenance) -> str:
    """The whole report: a line of provenance, then one folded section per answer."""
    model = provenance.model
    facts = [
        model.name,
        f"{provenance.tokens} tokens",
        f"{provenance.prompts} prompts",
        f"mode {provenance.mode}",
    ]
    if provenance.logit_drift is not None:
        facts.append(f"logit drift {provenance.logit_drift:.2g}")
    warnings = [*_unseen(provenance), *provenance.notes]
    head = f"<p><b>probe report</b> — {escape(' · '.join(facts))}</p>"
    lines = "".join(f"<p><small>{escape(line)}</small></p>" for line in warnings)
    sections = "".join(
        _section(answer, key_of(answer, answers), first=n == 0) for n, answer in enumerate(answers)
    )
    return f'<div class="probe-report">{head}{lines}{sections}</div>'


def _unseen(provenance: Provenance) -> list[str]:
    if not provenance.unseen_layers:
        return []
    return [f"unseen layers: {', '.join(provenance.unseen_layers)}"]


def _section(answer: Answer, key: str, *, first: bool) -> str:
    top = ", ".join(f"{name} {score:.3g}" for name, score in top_heads(answer, 5))
    notes = "".join(f"<p><small>{escape(note)}</small></p>" for note in answer.notes)
    return (
        f"<details{' open' if first else ''}><summary><b>{escape(key)}</b> ({escape(answer.unit)})"
        f" — {escape(top)}</summary><p><small>{escape(answer.summary)} {escape(answer.paper)}</small></p>"
        f"{notes}{_table(answer)}</details>"
    )


def _table(answer: Answer) -> str:
    found = list(cells(answer.head_map))
    if head_axis(answer.head_map) == "model":  # the summary line holds the number already
        return "" if math.isfinite(found[0][2]) else "<p><small>the value is not defined</small></p>"
    if len(found) > MAX_CELLS:
        return f"<p><small>{len(found)} heads: see to_frame() or probe.plots.head_map.</small></p>"
    defined = [value for _, _, value in found if math.isfinite(value)]
    low, high = (min(defined), max(defined)) if defined else (0.0, 0.0)
    axis = head_axis(answer.head_map)
    rows: dict[int, list[str]] = {}
    for layer, head, value in found:
        name = f"{head_name(answer.tower, layer, head, axis)} {value:.4g}"
        color = "rgb({},{},{})".format(*rgb(fraction(value, low, high) if math.isfinite(value) else math.nan))
        rows.setdefault(layer, []).append(
            f'<td title="{escape(name)}" style="{_CELL};background:{color}"></td>'
        )
    body = "".join(
        f'<tr><th style="padding:0 .5em 0 0;font-weight:normal">L{layer}</th>{"".join(row)}</tr>'
        for layer, row in rows.items()
    )
    scale = (
        f"<p><small>dark {low:.4g} … bright {high:.4g} {escape(answer.unit)}; a row is a layer</small></p>"
    )
    return f'{scale}<table style="border-collapse:separate;border-spacing:1px">{body}</table>'
