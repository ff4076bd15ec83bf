"""Whether two signals peak together: coincidence of peaks, against the same peaks shifted around the circle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.signal import find_peaks

DRAWS = 200

Flags = Bool[np.ndarray, "token"]


@dataclass(frozen=True)
class Coincidence:
    """How many peaks of one signal have a peak of another beside them, in one text or in several.

    `shifted` holds, as a number for each draw, the hits after a circular shift of the other signal's peaks.
    """

    peaks: int
    hits: int
    shifted: Float[np.ndarray, "draw"]

    @property
    def share(self) -> float:
        """Share of the peaks with one beside them, 0 to 1; NaN without peaks."""
        return self.hits / self.peaks if self.peaks else np.nan

    @property
    def shifted_shares(self) -> Float[np.ndarray, "draw"]:
        """The same share for each shift; NaN without peaks."""
        return self.shifted / self.peaks if self.peaks else np.full_like(self.shifted, np.nan)

    @property
    def p(self) -> float:
        """Share of shifts with at least as many hits, the observed one counted: (1 + #) / (1 + draws)."""
        known = self.shifted[~np.isnan(self.shifted)]
        return (
            float((1 + (known >= self.hits).sum()) / (1 + known.size))
            if known.size and self.peaks
            else np.nan
        )


def peaks(values: Float[np.ndarray, "token"], quantile: float) -> Flags:
    """Local maxima at or above a quantile of the defined values; ends, and what is beside undefined values, are none.

    A flat top counts once, at its middle.
    """
    flags = np.zeros(len(values), dtype=bool)
    known = ~np.isnan(values)
    if known.any():
        # Beside an undefined value there is no telling: infinity is higher than either neighbour.
        closed = np.where(known, values, np.inf)
        flags[find_peaks(closed, height=np.nanquantile(values, quantile))[0]] = True
    return np.asarray(flags & known)


def coincidence(
    these: Flags, others: Flags, *, before: int, after: int, shifts: Int[np.ndarray, "draw"]
) -> Coincidence:
    """How many of `these` have one of `others` from `before` tokens before to `after` tokens after.

    Args:
        these: peaks that are counted.
        others: peaks that may lie beside them.
        before: how many tokens before count.
        after: how many tokens after count.
        shifts: how far `others` are shifted around the circle, once for each draw of the control.
    """
    hits = [int((these & _widened(np.roll(others, shift), before, after)).sum()) for shift in (0, *shifts)]
    return Coincidence(int(these.sum()), hits[0], np.array(hits[1:], dtype=np.float64))


def _widened(flags: Flags, before: int, after: int) -> Flags:
    """True where a flag stands at most `before` tokens back or `after` tokens ahead; the ends do not meet."""
    wide = flags.copy()
    for step in range(1, before + 1):
        wide[step:] |= flags[: max(0, len(flags) - step)]
    for step in range(1, after + 1):
        wide[: max(0, len(flags) - step)] |= flags[step:]
    return wide


def drawn_shifts(
    length: int, apart: int, draws: int, random: np.random.Generator
) -> Int[np.ndarray, "draw"] | None:
    """Random shifts by more than `apart` tokens either way around a circle of `length`; None where there is none."""
    possible = np.arange(apart + 1, length - apart)
    return random.choice(possible, size=draws) if possible.size else None


def pooled(parts: Sequence[Coincidence]) -> Coincidence:
    """Several texts as one: peaks and hits are added, draw by draw."""
    return Coincidence(
        sum(part.peaks for part in parts),
        sum(part.hits for part in parts),
        np.sum([part.shifted for part in parts], axis=0),
    )
