"""From the signals of every prompt to one labelled answer: tokens, credit and coupling."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from probe.experiments.base import told
from probe.experiments.rhythm_coupling import DRAWS, Coincidence, coincidence, drawn_shifts, peaks, pooled
from probe.experiments.rhythm_credit import Rule, change, credit, highest
from probe.metrics.base import MetricInfo
from probe.report.answer import Answer

STATISTICS = ("share", "shifted", "shifted_low", "shifted_high", "p", "peaks")


@dataclass
class Found:
    """What the two passes found: distances and groups of heads, and the signals of each prompt's response."""

    info: MetricInfo
    spec: str
    layers: Sequence[int]
    n_heads: Sequence[int]
    distances: np.ndarray  # [prompt, 2, layer, head]: totals and weights
    group: np.ndarray  # [layer, head]
    signals: list[tuple[str, int, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, name: str, start: int, waad: np.ndarray, fai: np.ndarray) -> None:
        """Add a prompt: its id, where its response starts, and the two signals of the response."""
        self.signals.append((name, start, waad, fai))

    @property
    def ids(self) -> list[str]:
        """The prompts' ids, in order."""
        return [name for name, *_ in self.signals]

    @property
    def length(self) -> int:
        """End of the longest response, in tokens of its prompt."""
        return max(start + len(waad) for _, start, waad, _ in self.signals)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Total over weight, ``[2, …] -> […]``; NaN where the weight is 0."""
    total, weight = sums
    return np.asarray(np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0))


def rhythm_answer(found: Found, rule: Rule, seed: int, notes: Sequence[str]) -> Answer:
    """Distances as the head map; groups, tokens, credit and coupling as further arrays."""
    coords = {
        "layer": np.array(found.layers, dtype=np.int64),
        "head": np.arange(found.group.shape[1], dtype=np.int64),
        "n_heads": ("layer", np.array(found.n_heads, dtype=np.int64)),
    }
    measured = coupling(found, rule, seed)
    dims = ("prompt", "layer", "head")
    by_prompt = {"prompt": found.ids, **coords, "weight": (dims, found.distances[:, 1])}
    return Answer(
        **told(found.spec, found.info),
        head_map=xr.DataArray(ratio(found.distances.sum(0)), dims=("layer", "head"), coords=coords),
        by_prompt=xr.DataArray(ratio(found.distances.swapaxes(0, 1)), dims=dims, coords=by_prompt),
        extra={
            "group": xr.DataArray(found.group, dims=("layer", "head"), coords=coords),
            **_tokens(found, rule),
            "coupling": _table(measured),
        },
        notes=(*notes, *_lines(found, rule, measured)),
    )


def coupling(found: Found, rule: Rule, seed: int) -> dict[str, Coincidence]:
    """How FAI peaks and WAAD peaks coincide, all prompts pooled; responses too short to be shifted are left out.

    ``within``: an FAI peak has a WAAD peak at most k tokens away. ``follows``: at the same token or at most k before.
    """
    random = np.random.default_rng(seed)
    parts: dict[str, list[Coincidence]] = {"within": [], "follows": []}
    for _, _, waad, fai in found.signals:
        known = np.flatnonzero(~np.isnan(waad) & ~np.isnan(fai))
        turns = drawn_shifts(known.size, 2 * rule.k, DRAWS, random)
        if turns is None:
            continue
        high, far = peaks(fai[known], rule.peak), peaks(waad[known], rule.peak)
        for name, after in (("within", rule.k), ("follows", 0)):
            parts[name].append(coincidence(high, far, before=rule.k, after=after, shifts=turns))
    nothing = Coincidence(0, 0, np.zeros(DRAWS))
    return {name: pooled(some) if some else nothing for name, some in parts.items()}


def _tokens(found: Found, rule: Rule) -> dict[str, xr.DataArray]:
    grids: dict[str, np.ndarray] = {}
    for row, (_, start, waad, fai) in enumerate(found.signals):
        delta = change(waad)
        each = {
            "waad": waad,
            "delta": delta,
            "fai": fai,
            "preplan": _flags(highest(delta, rule.share), delta),
            "anchor": _flags(highest(fai, rule.share), fai),
            "peak:waad": _flags(peaks(waad, rule.peak), waad),
            "peak:fai": _flags(peaks(fai, rule.peak), fai),
            **{f"credit:{kind}": weights for kind, weights in credit(waad, fai, rule).items()},
        }
        for name, values in each.items():
            grid = grids.setdefault(name, np.full((len(found.signals), found.length), np.nan))
            grid[row, start : start + len(values)] = values
    coords = {"prompt": found.ids, "token": np.arange(found.length, dtype=np.int64)}
    return {name: xr.DataArray(grid, dims=("prompt", "token"), coords=coords) for name, grid in grids.items()}


def _flags(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    """1 where chosen, 0 elsewhere, NaN where the signal is undefined."""
    return np.where(np.isnan(values), np.nan, chosen.astype(np.float64))


def _table(measured: dict[str, Coincidence]) -> xr.DataArray:
    rows = []
    for one in measured.values():
        shifted = one.shifted_shares
        low, high = np.quantile(shifted, [0.025, 0.975])
        rows.append([one.share, shifted.mean(), low, high, one.p, one.peaks])
    coords = {"measure": list(measured), "statistic": list(STATISTICS)}
    return xr.DataArray(np.array(rows), dims=("measure", "statistic"), coords=coords)


def _lines(found: Found, rule: Rule, measured: dict[str, Coincidence]) -> list[str]:
    lines = [
        f"{int((found.group == -1).sum())} local and {int((found.group == 1).sum())} global heads",
        f"rule: {rule} (tau_w, tau_delta and peak are quantiles; they and a are not given in the paper)",
    ]
    undefined = sum(int(np.isnan(fai).sum()) for *_, fai in found.signals)
    lines.append(
        f"{undefined} tokens have no query in their horizon: their FAI is undefined and was left out"
    )
    one = measured["follows"]
    if one.peaks:
        lines.append(
            f"{one.share:.1%} of {one.peaks} FAI peaks coincide with a WAAD peak or follow one within {rule.k} tokens; "
            f"{one.shifted_shares.mean():.1%} when shifted around the circle ({DRAWS} shifts, p = {one.p:.3g})"
        )
    else:
        lines.append(
            "coupling is not defined: no FAI peak was found, or the responses are too short to be shifted"
        )
    return lines
