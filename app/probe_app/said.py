"""What a page says in words: what a report is about, what was not seen, and what went wrong."""

import dash_mantine_components as dmc
from dash import html

from probe.errors import ProbeError
from probe.report import Report


def facts(report: Report) -> object:
    """One line on what was run."""
    about = report.provenance
    said = [
        about.model.name,
        f"{about.tokens:,} tokens",
        "1 prompt" if about.prompts == 1 else f"{about.prompts} prompts",
        f"mode {about.mode}",
        f"seed {about.seed}",
    ]
    if about.logit_drift is not None:
        said.append(f"logit drift {about.logit_drift:.1e}")
    if about.ended:
        said.append(f"{about.ended[:16].replace('T', ' ')} UTC")
    return dmc.Text(" · ".join(said), size="sm", className="facts")


def warnings(report: Report) -> list[object]:
    """What a reader must know: layers that were not seen, and the run's own notes."""
    about = report.provenance
    boxes: list[object] = []
    if about.unseen_layers:
        boxes.append(
            dmc.Alert(", ".join(about.unseen_layers), title="Attention that was not seen", color="orange")
        )
    if about.fallback_layers:
        said = "seen only through the weights that they returned: " + ", ".join(about.fallback_layers)
        boxes.append(dmc.Alert(said, title="Seen at second hand", color="yellow"))
    if about.notes:
        summary = html.Summary(
            "1 note on this run" if len(about.notes) == 1 else f"{len(about.notes)} notes on this run"
        )
        boxes.append(
            html.Details([summary, html.Ul([html.Li(note) for note in about.notes])], className="notes")
        )
    return boxes


def problem(error: ProbeError) -> object:
    """An error as a box: what was asked, what was found, what to do."""
    return dmc.Alert(str(error), title="This cannot be shown", color="red", id="problem")


def shown(value: float) -> str:
    """A value with three or four significant digits.

    >>> shown(0.97132), shown(1234.5)
    ('0.9713', '1234')
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
