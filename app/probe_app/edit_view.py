"""What an edit did: three texts side by side, divergence per token, and the way to the attention before and after."""

from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from probe.plots import token_lines
from probe_app import figures
from probe_app.address import write

_NAMES = {"base": "As it is", "edited": "Edited", "control": "Control: as many other heads"}


def edit_shown(found: Mapping[str, Any], reports: Mapping[str, str]) -> object:
    """The result of an edit."""
    texts, tokens = found["texts"], found["tokens"]
    runs = texts["runs"]
    columns = [_text(name, runs.get(name)) for name in _NAMES]
    figure = token_lines(
        {
            "KL(base ‖ edited)": tokens["kl"],
            "loss, as it is": tokens["base"],
            "loss, edited": tokens["edited"],
        },
        tokens["str_tokens"],
        unit="nats",
        title="What the edit moves, token by token",
    )
    parts: list[object] = [
        dmc.Text(", ".join(texts["intervention"]), ff="monospace", size="sm"),
        dmc.SimpleGrid(columns, cols={"base": 1, "sm": 3}),
        dmc.Paper(figures.graph("kl", figure, "Divergence per token", mark="edit"), withBorder=True, p="xs"),
        *(dmc.Text(note, size="xs", c="dimmed") for note in texts.get("notes", ())),
    ]
    if texts.get("control_heads"):
        parts.append(
            dmc.Text("Heads of the control: " + ", ".join(texts["control_heads"]), size="xs", c="dimmed")
        )
    if {"base", "edited"} <= set(reports):
        link = "/compare" + write({"a": reports["base"], "b": reports["edited"]})
        parts.append(dcc.Link("Attention before and after", href=link))
    return dmc.Stack(parts)


def _text(name: str, run: Mapping[str, Any] | None) -> object:
    if run is None:
        body: object = dmc.Text("There is none: the edit is of all heads of a layer.", c="dimmed", size="sm")
    else:
        pairs = zip(run["str_tokens"], run["probs"], strict=True)
        body = html.Div([_token(text, prob) for text, prob in pairs], className="tokens")
    where = (
        None if run is None or run.get("differs_at") is None else f"differs from token {run['differs_at']} on"
    )
    lines = [dmc.Text(_NAMES[name], fw=600, size="sm"), body]
    return dmc.Paper(
        [*lines, *([dmc.Text(where, size="xs", c="dimmed")] if where else [])], withBorder=True, p="xs"
    )


def _token(text: str, prob: float) -> html.Span:
    shown = text.replace("\n", "⏎\n") or "∅"
    return html.Span(
        shown, className="token written", title=f"probability {prob:.3f}", style={"--shade": f"{prob:.3f}"}
    )
