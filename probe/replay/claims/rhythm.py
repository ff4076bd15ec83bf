"""Tokens that the future reads come at or right after tokens whose local heads look far back, more than by chance."""

from collections.abc import Sequence

import numpy as np

from probe.experiments.rhythm_coupling import coincidence, drawn_shifts
from probe.replay.claim import Claim
from probe.replay.finding import Estimate, Finding, Row, Table
from probe.replay.intervals import statistic
from probe.replay.reasoned import TEMPERATURE, TOKENS, reasoned, told
from probe.replay.rhythms import BAND, FRACTION, QUANTILES, SEEDS, WINDOW, Peaks, rhythm_peaks
from probe.replay.work import Work

NEAR, DRAWS = 2, 200


def measure(work: Work) -> Finding:
    """Coincidence of peaks in a model's own responses, beside shifted peaks and random heads."""
    prompts = reasoned(work)
    kept, dropped = (rhythm_peaks(work, prompts, sink=sink) for sink in (True, False))
    own, without = (_rows([by_pair[0][0] for by_pair in found], work.seed) for found in (kept, dropped))
    gap = statistic(own, _gap)
    gaps = [_gap(_rows([by_pair[1 + draw][0] for by_pair in kept], work.seed)) for draw in range(SEEDS)]
    random = Estimate(float(np.mean(gaps)), min(gaps), max(gaps), "range")
    held = bool(_p(own) < 0.05 and (gap.low or 0) > 0)
    specific = (gap.low or 0) > max(gaps)
    lines = _other_choices(kept, work.seed)
    return Finding(
        holds=held,
        brief=f"{_share(own):.0%} of {own[:, 0].sum():.0f} FAI peaks at a WAAD peak or at most {NEAR} tokens "
        f"after one, {_shifted(own).value:.0%} when shifted (p = {_p(own):.3f}); random heads in both groups: "
        f"gap {random}, own {gap}",
        rows=(
            Row(
                f"share of FAI peaks at a WAAD peak or at most {NEAR} tokens after one; control: WAAD peaks shifted",
                statistic(own, _share),
                "0.53 (elsewhere 0.37)",
                _shifted(own),
            ),
            Row(
                "the same, first token left out when heads are grouped",
                statistic(without, _share),
                control=_shifted(without),
            ),
            Row(
                "share minus the mean share when shifted; control: as many random heads in both groups",
                gap,
                "0.16",
                random,
            ),
        ),
        tables=(
            Table(
                "Other quantiles and distances: share [95 % interval over responses]; shifted: mean (lowest – "
                "highest shift)",
                ("quantile of a peak", "tokens after", "FAI peaks", "share", "shifted", "p"),
                tuple(lines),
            ),
        ),
        found=(
            f"Read on {told(prompts)}.",
            f"The claim {'holds' if held else 'does not hold'} here: share minus shifted {gap}, p = {_p(own):.3f}.",
            f"With random heads in place of both groups the gap is {random}: the coincidence "
            + ("belongs to these groups." if specific else "is not more than that of any heads."),
        ),
    )


def _other_choices(kept: Sequence[Sequence[Sequence[Peaks]]], seed: int) -> list[tuple[str, ...]]:
    """Lines of the table: the same share for other quantiles and distances."""
    lines: list[tuple[str, ...]] = []
    for number, quantile in enumerate(QUANTILES):
        for near in (1, 2, 3):
            rows = _rows([by_pair[0][number] for by_pair in kept], seed, near)
            told_of = (str(statistic(rows, _share)), str(_shifted(rows)), f"{_p(rows):.3f}")
            lines.append((f"{quantile:g}", f"{near}", f"{rows[:, 0].sum():.0f}", *told_of))
    return lines


def _rows(found: Sequence[Peaks], seed: int, near: int = NEAR) -> np.ndarray:
    """By response: FAI peaks, those at or after a WAAD peak, and the same for each shift."""
    random, rows = np.random.default_rng(seed), []
    for one in found:
        turns = drawn_shifts(len(one.fai), 2 * near, DRAWS, random)
        if turns is not None:
            both = coincidence(one.fai, one.waad, before=near, after=0, shifts=turns)
            rows.append([both.peaks, both.hits, *both.shifted])
    return np.asarray(rows)


def _gap(rows: np.ndarray) -> float:
    return float((rows[:, 1] - rows[:, 2:].mean(1)).sum() / rows[:, 0].sum())


def _share(rows: np.ndarray) -> float:
    return float(rows[:, 1].sum() / rows[:, 0].sum())


def _shifted(rows: np.ndarray) -> Estimate:
    shares = rows[:, 2:].sum(0) / rows[:, 0].sum()
    return Estimate(float(shares.mean()), float(shares.min()), float(shares.max()), "range")


def _p(rows: np.ndarray) -> float:
    hits = rows[:, 1:].sum(0)
    return float((1 + (hits[1:] >= hits[0]).sum()) / len(hits))


CLAIM = Claim(
    claimed="the peaks of FAI (tokens that global heads return to) coincide with a peak of WAAD (tokens from "
    "which local heads look far back) or follow one, in 52.53 % of cases against 36.87 % elsewhere "
    "(Qwen3-4B-Base on GSM8K).",
    data="responses that the model draws itself to 12 small arithmetic problems written for this; all held "
    "out, since nothing is chosen or tuned.",
    measure=measure,
    how=(
        f"Local and global heads: the {FRACTION:.0%} with the lowest and the highest mean distance over "
        f"response rows, all layers, all responses pooled. WAAD: window {WINDOW}. FAI: horizon {BAND[0]} to "
        f"{BAND[1]}; tokens without a query in it are left out.",
        f"A peak is a local maximum at or above the {QUANTILES[0]:g} quantile of the response; the paper says "
        f"neither this nor how near is near: {NEAR} tokens, chosen before anything was measured.",
        f"Shifted: WAAD peaks turned around the circle of the response by more than {2 * NEAR} tokens, {DRAWS} "
        f"draws. Random heads: as many in either group, drawn from all heads with {SEEDS} seeds.",
        "The claim holds where the share is above that of the shifts (p < 0.05) and the interval over "
        "responses of share minus shifted is above 0.",
    ),
    settings={
        "near": NEAR,
        "draws": DRAWS,
        "seeds": SEEDS,
        "quantiles": QUANTILES,
        "responses": [TOKENS, TEMPERATURE],
    },
)
