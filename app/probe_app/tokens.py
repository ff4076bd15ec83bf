"""The text of a prompt, token by token, shaded by what a head does with each."""

import base64
from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import html

from probe.report import Report
from probe.terms import HeadId
from probe_app.address import span
from probe_app.said import shown
from probe_app.tile import KeptView

STEP = 256  # tokens on the page at once
_SHADED = 0.97
LOOKS, LOOKED_AT = "where the chosen token looks", "who looks at the chosen token"
SPREAD = "entropy of the token's row (nats)"


def by_choices(report: Report, head: HeadId, prompt: int, *, kept: bool) -> list[str]:
    """What the text can be shaded by: token maps of the report, and the pattern of a chosen token."""
    keys = [
        key
        for key, answer in zip(report.keys(), report.answers, strict=True)
        if answer.tower == head.tower
        and prompt in answer.token_maps
        and _row(answer.token_maps[prompt], head) is not None
    ]
    return [*keys, *((SPREAD, LOOKS, LOOKED_AT) if kept else ())]


def text_view(report: Report, view: KeptView, fields: Mapping[str, str]) -> object:
    """A window of the text with its shades; hovering a token shows where it looks, in the browser alone."""
    if view.prompt >= len(report.prompts) or not report.prompts[view.prompt].str_tokens:
        return dmc.Text("This report keeps no text (it was saved with --no-text).", c="dimmed")
    tokens = report.prompts[view.prompt].str_tokens
    start, _ = span(fields.get("t"), len(tokens))
    start = min(start, max(0, len(tokens) - 1)) // STEP * STEP
    stop = min(start + STEP, len(tokens))
    chosen = int(fields["at"]) if fields.get("at", "").isdigit() else None
    among = view.rows(start, stop)
    values = _values(report, view, fields, (start, stop), chosen, among)
    low, high = _shades(values)
    words = [_token(at, tokens[at], values[at - start], chosen == at) for at in range(start, stop)]
    attributes = {"data-first": str(start), "data-low": f"{low:.6g}", "data-high": f"{high:.6g}"} | (
        {} if among is None else {"data-rows": _packed(among)}
    )
    return html.Div(
        [
            dmc.Text(_legend(low, high, (start, stop, len(tokens)), among is not None), size="sm"),
            html.Div(words, className="tokens", id="tokens", role="list", **attributes),
        ]
    )


def _values(
    report: Report, view: KeptView, fields: Mapping[str, str], window: tuple[int, int], chosen: int | None,
    among: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    start, stop = window
    nothing = np.full(stop - start, np.nan)
    by = fields.get("by", "")
    if by == SPREAD:
        spread = view.entropies(start, stop)
        return nothing if spread is None else spread
    if by in (LOOKS, LOOKED_AT):
        if chosen is None or among is None or not start <= chosen < stop:
            return nothing
        return among[chosen - start] if by == LOOKS else among[:, chosen - start]
    if by not in report:
        return nothing
    row = _row(report.answer(by).token_maps[view.prompt], view.head)
    if row is None:
        return nothing
    part = row[start:stop]
    return np.concatenate([part, np.full(stop - start - len(part), np.nan)])


def _row(token_map: Any, head: HeadId) -> np.ndarray | None:
    if "head" not in token_map.dims or head.layer not in token_map.coords["layer"].values:
        return None
    layer = token_map.sel(layer=head.layer)
    return np.asarray(layer.values[head.head], np.float64) if head.head < layer.sizes["head"] else None


def _token(at: int, text: str, value: float, chosen: bool) -> html.Span:
    known = np.isfinite(value)
    said = f"token {at}: {shown(float(value))}" if known else f"token {at}"
    drawn = text.replace("\n", "⏎\n") or "∅"
    return html.Span(
        drawn,
        className="token chosen" if chosen else "token",
        title=said,
        tabIndex="0",
        role="listitem",
        **{"data-at": str(at), "data-value": f"{value:.6g}" if known else ""},
    )


def _shades(values: np.ndarray) -> tuple[float, float]:
    """From where to where shades run: a few outliers, such as a sink, must not leave all others white."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(np.quantile(known, _SHADED))) if known.size else (np.nan, np.nan)


def _legend(low: float, high: float, window: tuple[int, int, int], hover: bool) -> str:
    start, stop, total = window
    said = f"Tokens {start} to {stop - 1} of {total}."
    if np.isfinite(low):
        said += (
            f" Shades from {shown(low)} to {shown(high)}, the 97th percentile here; what is above is as dark."
        )
    more = " Hover or focus a token to see where it looks; click it to choose it."
    return said + (more if hover else " Click a token to choose it.")


def _packed(among: np.ndarray) -> str:
    """The pattern within the window as one byte a pair (the square root, so that small values show), in base64."""
    return base64.b64encode(np.round(np.sqrt(np.clip(among, 0, 1)) * 255).astype(np.uint8).tobytes()).decode()
