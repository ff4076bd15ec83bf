"""Entropy falls with the query's norm: longer queries look more sharply (or not)."""

from typing import Any

import numpy as np

from probe.experiments.folding import fold
from probe.metrics.entropy_query_norm import (
    EntropyQueryNorm,
    partial_spearman,
    rows_of,
    spearman,
)
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Estimate, Finding, Row, Table
from probe.replay.intervals import interval, mean, statistic
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

PASSAGES, WIDTH = 8, 384
HOW = {
    "as it is": "",
    "place held fixed": ", the row's place held fixed",
    "first key out": ", the first key left out of the row",
    "first key out, place held fixed": ", the first key left out, the row's place held fixed",
}
JUDGED = ("as it is", "place held fixed")


def measure(work: Work) -> Finding:
    """Spearman's correlation of norm and entropy per head and passage, beside that with shuffled norms."""
    rows = [
        work.keep(str(one.id), _of_passage, work.model, one, work.seed)
        for one in work.few(passages(work.model, PASSAGES, WIDTH))
    ]
    found = {name: np.asarray([row[name] for row in rows], np.float64) for name in (*HOW, "shuffled")}
    held = {name: interval(_overall(found[name]))[1] < 0 < _gap(found, name) for name in JUDGED}
    whole = found["as it is"]
    return Finding(
        holds=all(held.values()),
        brief=f"mean correlation {mean(_overall(whole))}, shuffled {mean(_overall(found['shuffled']))}; "
        f"{_share(whole)} of heads below 0",
        rows=(
            *(
                Row(f"mean correlation over heads{said}", mean(_overall(found[name])), *_beside(found, name))
                for name, said in HOW.items()
            ),
            *(
                Row(f"share of heads below 0{said}", _share(found[name]), control=_share(found["shuffled"]))
                for name, said in HOW.items()
            ),
        ),
        tables=(_table(found),),
        found=tuple(
            f"{name[0].upper()}{name[1:]}: the claim {'holds' if yes else 'does not hold'} (mean over heads "
            f"{mean(_overall(found[name]))}, shuffled minus measured {_gap(found, name):.2f} at the least)."
            for name, yes in held.items()
        ),
    )


def _of_passage(loaded: LoadedModel, passage: Prompt, seed: int) -> dict[str, list[float]]:
    """Correlations of every head, layer by layer."""
    plain, without = EntropyQueryNorm(), EntropyQueryNorm(without_first=True)
    fold(loaded, [passage], [plain, without])
    found: dict[str, list[float]] = {name: [] for name in (*HOW, "shuffled")}
    random = np.random.default_rng(seed)
    for key in sorted(plain.cells):
        for head in range(plain.cells[key]["pairs"].shape[1]):
            rows, rest = rows_of([plain.cells[key]], head), rows_of([without.cells[key]], head)
            made = {
                "as it is": spearman(*rows[:2]),
                "place held fixed": partial_spearman(*rows),
                "first key out": spearman(*rest[:2]),
                "first key out, place held fixed": partial_spearman(*rest),
                "shuffled": spearman(random.permutation(rows[0]), rows[1]),
            }
            for name, value in made.items():
                found[name].append(float(value))
    return found


def _overall(values: np.ndarray) -> np.ndarray:
    """Mean over heads, by passage."""
    return np.asarray(np.nanmean(values, axis=1))


def _gap(found: dict[str, np.ndarray], name: str) -> float:
    """How far the measured correlation lies below that of shuffled norms, at the least (95 %, over passages)."""
    return interval(_overall(found["shuffled"]) - _overall(found[name]))[0]


def _beside(found: dict[str, np.ndarray], name: str) -> tuple[str, Estimate]:
    return ("negative (figure)" if name == "as it is" else "–"), mean(_overall(found["shuffled"]))


def _share(values: np.ndarray) -> Estimate:
    """Share of heads whose mean correlation over passages is below 0, of those that have one."""
    known = values[:, np.isfinite(values).any(0)]

    def below(some: np.ndarray) -> float:
        return float(
            (np.nansum(some, axis=0) < 0).mean()
        )  # the sum has the mean's sign, and one of no rows is 0

    return statistic(known, below)


def _table(found: dict[str, np.ndarray]) -> Table:
    def line(name: str) -> tuple[str, ...]:
        parts: list[Any] = np.array_split(found[name], 3, axis=1)
        return (name, *(str(mean(_overall(part))) for part in parts))

    return Table(
        "Mean correlation by depth, heads in order of their layers: mean [95 % interval over passages]",
        ("norm and entropy", "first third", "second third", "last third"),
        tuple(line(name) for name in (*HOW, "shuffled")),
    )


CLAIM = Claim(
    claimed="the entropy of a row of softmax attention falls as its query's norm grows; norm-aware linear attention is "
    "built on it. (The paper shows it in a figure for vision models, without a number.)",
    data=f"{PASSAGES} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "`entropy_query_norm`: Spearman's correlation over the rows of one passage, per head, of ‖q‖ (after rotation "
        "and norms) and the row's entropy over its largest possible.",
        "The control shuffles the norms among the rows of the same head and passage.",
        "Both may follow the row's place in the text alone: dilution with length. So the correlation is also shown "
        "with the place held fixed (partial rank correlation), and with the first key, the sink, left out of every "
        "row.",
        "The claim holds where the mean over heads is below 0 and below that of shuffled norms (intervals over "
        "passages), as it is and with the place held fixed.",
    ),
    settings={"passages": PASSAGES, "width": WIDTH},
)
