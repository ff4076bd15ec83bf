"""The text of a prompt, token by token, shaded by what a head does with each; the browser sets the tokens."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.report import Report
from probe.terms import HeadId
from probe_app.address import span
from probe_app.said import shown
from probe_app.tile import KeptView

STEP = 256  # tokens on the page at once
_SHADED = 0.97
LOOKS, LOOKED_AT = "where the chosen token looks", "who looks at the chosen token"
SPREAD = "entropy of the token's row (nats)"
NO_TEXT = "This report keeps no text (it was saved with --no-text)."


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


@dataclass(frozen=True)
class Window:
    """The tokens ``[start, stop)`` of a prompt, and the one that is chosen (a token of the prompt, or None)."""

    report: Report
    view: KeptView
    start: int
    stop: int
    chosen: int | None

    @classmethod
    def of(cls, report: Report, view: KeptView, fields: Mapping[str, str]) -> "Window":
        """The window of an address; empty where the report keeps no text."""
        total = len(report.prompts[view.prompt].str_tokens) if view.prompt < len(report.prompts) else 0
        start, _ = span(fields.get("t"), total)
        start = min(start, max(0, total - 1)) // STEP * STEP
        chosen = int(fields["at"]) if fields.get("at", "").isdecimal() else None
        return cls(report, view, start, min(start + STEP, total), chosen)

    def words(self) -> dict[str, Any]:
        """The tokens as text."""
        if self.start == self.stop:
            return {"first": 0, "tokens": []}
        tokens = self.report.prompts[self.view.prompt].str_tokens[self.start : self.stop]
        return {"first": self.start, "tokens": [text.replace("\n", "⏎\n") or "∅" for text in tokens]}

    def rows(self) -> str | None:
        """The pattern within the window, a byte a pair, in base64; None where it was not kept.

        A byte is the square root of the probability, so that small values show.
        """
        among = self.view.rows(self.start, self.stop) if self.start < self.stop else None
        if among is None:
            return None
        return base64.b64encode(
            np.round(np.sqrt(np.clip(among, 0, 1)) * 255).astype(np.uint8).tobytes()
        ).decode()

    def values(self, by: str) -> dict[str, Any]:
        """A value per token (None: undefined), between which of them shades run, and a line on what is seen."""
        if self.start == self.stop:
            return {"values": [], "legend": NO_TEXT, "chosen": None}
        values = self._values(by)
        low, high = _shades(values)
        return {
            "values": [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()],
            "said": [shown(value) if np.isfinite(value) else "" for value in values.tolist()],
            "low": low if np.isfinite(low) else None,
            "high": high if np.isfinite(high) else None,
            "chosen": self.chosen,
            "legend": self._legend(low, high),
        }

    def _values(self, by: str) -> np.ndarray:
        nothing = np.full(self.stop - self.start, np.nan)
        if by == SPREAD:
            spread = self.view.entropies(self.start, self.stop)
            return nothing if spread is None else spread
        if by in (LOOKS, LOOKED_AT):
            if self.chosen is None or not self.start <= self.chosen < self.stop:
                return nothing
            among = self.view.rows(self.start, self.stop)
            at = self.chosen - self.start
            return nothing if among is None else among[at] if by == LOOKS else among[:, at]
        if by not in self.report:
            return nothing
        row = _row(self.report.answer(by).token_maps[self.view.prompt], self.view.head)
        if row is None:
            return nothing
        part = row[self.start : self.stop]
        return np.concatenate([part, np.full(self.stop - self.start - len(part), np.nan)])

    def _legend(self, low: float, high: float) -> str:
        total = len(self.report.prompts[self.view.prompt].str_tokens)
        said = f"Tokens {self.start} to {self.stop - 1} of {total}."
        if np.isfinite(low):
            said += f" Shades from {shown(low)} to {shown(high)}, the 97th percentile here; what is above is as dark."
        more = " Hover or focus a token to see where it looks; click it to choose it."
        return said + (more if self.view.kept.has_qk else " Click a token to choose it.")


def _row(token_map: Any, head: HeadId) -> np.ndarray | None:
    if "head" not in token_map.dims or head.layer not in token_map.coords["layer"].values:
        return None
    layer = token_map.sel(layer=head.layer)
    return np.asarray(layer.values[head.head], np.float64) if head.head < layer.sizes["head"] else None


def _shades(values: np.ndarray) -> tuple[float, float]:
    """From where to where shades run: a few outliers, such as a sink, must not leave all others white."""
    known = values[np.isfinite(values)]
    return (float(known.min()) + 0.0, float(np.quantile(known, _SHADED))) if known.size else (np.nan, np.nan)
