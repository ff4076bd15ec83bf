"""What a claim gave on one model: numbers with intervals, beside the paper's and a control's, and whether it holds."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

NONE = "–"  # where there is no number: the paper gives none, or nothing can be a control


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    `low` and `high` are the ends of a 95 % interval (``kind="interval"``), the lowest and the highest of several seeds
    (``kind="range"``), or not there (None). Made by `probe.replay.intervals`.

    >>> str(Estimate(0.931, 0.852, 0.99)), str(Estimate(0.5, 0.25, 0.75, "range", 1)), str(Estimate(3.0, digits=0))
    ('0.93 [0.85, 0.99]', '0.5 (0.2 – 0.8)', '3')
    """

    value: float
    low: float | None = None
    high: float | None = None
    kind: Literal["interval", "range"] = "interval"
    digits: int = 2

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        number = f"{self.value:.{self.digits}f}"
        if self.low is None or self.high is None or math.isnan(self.low) or math.isnan(self.high):
            return number
        low, high = f"{self.low:.{self.digits}f}", f"{self.high:.{self.digits}f}"
        return f"{number} [{low}, {high}]" if self.kind == "interval" else f"{number} ({low} – {high})"


@dataclass(frozen=True)
class Row:
    """One measured thing: the paper's number, ours, and that of the count-matched random control.

    A string stands where there is no number (`NONE`, or words that say why); `what` names the unit.
    """

    what: str
    ours: Estimate | str
    paper: str = NONE
    control: Estimate | str = NONE


@dataclass(frozen=True)
class Table:
    """A further table: a title that says what its cells are and what their intervals are over."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Finding:
    """What a claim gave on one model.

    Args:
        holds: Whether the claim holds on this model; None where it cannot be asked of it (`brief` says why).
        brief: The numbers in one line, for the index.
        rows: The headline: paper, ours, control.
        found: Sentences on what the numbers say; they stand below the tables.
        but: What follows the verdict: ``" for recall; …"``.
        tables: Further numbers.
        how: Sentences on how it was measured that depend on the model: which heads, which controls.
        heads: The heads that were chosen, where some were.
    """

    holds: bool | None
    brief: str
    rows: tuple[Row, ...] = ()
    found: tuple[str, ...] = ()
    but: str = ""
    tables: tuple[Table, ...] = ()
    how: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold`` or ``was not asked``, with what follows it."""
        said = {True: "holds", False: "does not hold", None: "was not asked"}[self.holds]
        return said + self.but

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Finding":
        """The finding that `to_dict` made these values of."""
        return cls(
            holds=found["holds"],
            brief=found["brief"],
            rows=tuple(_row(row) for row in found["rows"]),
            found=tuple(found["found"]),
            but=found["but"],
            tables=tuple(
                Table(one["title"], tuple(one["columns"]), tuple(map(tuple, one["rows"])))
                for one in found["tables"]
            ),
            how=tuple(found["how"]),
            heads=tuple(found["heads"]),
        )


def _row(found: Mapping[str, Any]) -> Row:
    return Row(found["what"], _number(found["ours"]), found["paper"], _number(found["control"]))


def _number(found: Mapping[str, Any] | str) -> Estimate | str:
    if isinstance(found, str):
        return found
    # JSON has no NaN: what is not defined is null there.
    return Estimate(**{**found, "value": math.nan if found["value"] is None else found["value"]})


def not_asked(why: str) -> Finding:
    """The finding for a model that a claim cannot be asked of: too few layers, no such part."""
    return Finding(holds=None, brief=why, found=(why,))
