"""What the page of a head shows for an address: its choices, its map, its text, and its place among the others."""

from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go

from probe.errors import ProbeError, ReportError
from probe.plots import attention_image
from probe.report import Report
from probe_app.address import write
from probe_app.head_choice import head_names, parse_head, standing
from probe_app.library import Library
from probe_app.patches import over_image
from probe_app.redraw import Redraw
from probe_app.said import facts, problem
from probe_app.sentences import sentence_cards
from probe_app.tile import KeptView
from probe_app.tokens import LOOKED_AT, LOOKS, Window, by_choices

NOTHING: Mapping[str, Any] = {
    "heads": [], "prompts": [], "prompt": None, "bys": [], "by": None, "how": None, "figure": go.Figure(),
    "queries": "", "keys": "", "standing": None, "words": None, "rows": None, "values": None, "legend": "",
    "sentences": None, "patches": None,
}  # fmt: skip


def head_view(library: Library, fields: Mapping[str, str], redraw: Redraw) -> dict[str, Any]:
    """Everything that the page shows, by the names of `probe_app.pages.head`, with its address as ``search``."""
    names = library.names()
    name = fields.get("report") or (names[0] if names else "")
    listed = names if name in names or not name else [name, *names]
    told = {"reports": redraw.part("reports", listed, lambda: listed), "report": name or None}
    try:
        if not name:
            raise ReportError("a head was asked; there is no report yet: run probe analyze first")
        report = library.open(name)
        head = parse_head(fields.get("head"), report)
        number = _prompt(fields.get("prompt"), report)
        view = KeptView(library.kept(name), head, number)
        full = {**fields, "report": name, "head": str(head), "prompt": str(number)}
        return {**told, **_shown(report, view, full, redraw, library.shelf(name).stamp)}
    except ProbeError as error:
        redraw.drawn.clear()
        asked = fields.get("head")
        return {
            **NOTHING, **told, "reports": listed, "search": write(fields), "head": asked,
            "heads": [asked] if asked else [], "facts": problem(error),
        }  # fmt: skip


def _shown(
    report: Report, view: KeptView, fields: dict[str, str], redraw: Redraw, stamp: object
) -> dict[str, Any]:
    head, prompt = fields["head"], view.prompt
    this = (stamp, head, prompt)
    bys = by_choices(report, view.head, prompt, kept=view.kept.has_qk)
    by = fields["by"] if fields.get("by") in bys else (bys[0] if bys else "")
    window = Window.of(report, view, fields)
    chosen = window.chosen if by in (LOOKS, LOOKED_AT) else None
    seen = (*this, window.start, window.stop)
    asked = fields.get("q"), fields.get("k")
    how, figure, queries, keys = redraw.parts("tile", (*this, asked), lambda: _image(report, view, asked), 4)
    values = redraw.part("values", (*seen, by, chosen, window.chosen), lambda: window.values(by))
    return {
        "search": write(fields),
        "heads": redraw.part("heads", stamp, lambda: head_names(report)),
        "head": head,
        "prompts": redraw.part("prompts", stamp, lambda: _prompts(report)),
        "prompt": str(prompt),
        "bys": redraw.part("bys", bys, lambda: bys),
        "by": by or None,
        "facts": redraw.part("facts", stamp, lambda: facts(report)),
        "how": how,
        "figure": figure,
        "queries": queries,
        "keys": keys,
        "standing": redraw.part("standing", this, lambda: standing(report, view.head, fields["report"])),
        "words": redraw.part("words", (stamp, prompt, window.start), window.words),
        "rows": redraw.part("rows", seen, window.rows),
        "values": values,
        "legend": values["legend"] if isinstance(values, dict) else values,
        "patches": redraw.part("patches", view.head.tower, lambda: over_image(view.head)),
        "sentences": redraw.part("sentences", this, lambda: sentence_cards(report, view)),
    }


def _prompt(asked: str | None, report: Report) -> int:
    number = int(asked) if asked and asked.isdecimal() else 0
    most = max(1, len(report.prompts), report.provenance.prompts)
    if number >= most:
        raise ReportError(f"prompt {number} was asked; the report has {most}, counted from 0: choose another")
    return number


def _prompts(report: Report) -> list[dict[str, str]]:
    listed = [{"value": str(n), "label": f"{n}: {prompt.id}"} for n, prompt in enumerate(report.prompts)]
    return listed or [{"value": "0", "label": "0"}]


def _image(
    report: Report, view: KeptView, asked: tuple[str | None, str | None]
) -> tuple[Any, go.Figure, str, str]:
    """What is said of the map, the map, and its ranges as text."""
    kept = view.kept
    if not (kept.has_qk or kept.has_map):
        return _not_kept("nothing of the pattern was kept"), go.Figure(), "", ""
    try:
        tile, exact, queries, keys = view.tile(*asked)
    except ReportError as error:
        return problem(error), go.Figure(), "", ""
    cell = (
        "exact probabilities, token by token"
        if exact == "tokens"
        else f"mean probability of blocks ({exact})"
    )
    hint: list[Any] = [
        dmc.Text(f"Drag over the map to zoom in, double-click to zoom out. Shown: {cell}.", size="sm")
    ]
    if not kept.has_qk:
        hint.append(_not_kept("only a pooled map was kept, so that a zoom ends at its blocks"))
    tokens = report.prompts[view.prompt].str_tokens if view.prompt < len(report.prompts) else ()
    figure = attention_image(tile, tokens=tokens or None, title=str(view.head))
    return hint, figure, f"{queries[0]}-{queries[1]}", f"{keys[0]}-{keys[1]}"


def _not_kept(why: str) -> object:
    return dmc.Alert(
        [
            dmc.Text(f"In this report {why}. To zoom down to single tokens, run it again with:"),
            dmc.Code("probe analyze … --out DIR --keep qk", block=True),
        ],
        color="blue",
        title="A closer look",
    )
