"""The untrained baseline of an answer: the same map of a model with re-initialised weights, and how the two compare."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from probe.report.answer import Answer

UNTRAINED = "untrained"  # its name among an answer's extra arrays


class Comparison(NamedTuple):
    """Means over what is defined, and Spearman's rank correlation over what is defined in both; NaN where undefined."""

    trained: float
    untrained: float
    rank_correlation: float
    compared: int  # heads (experts, layers) that the correlation is over


def baseline_of(answer: Answer) -> xr.DataArray | None:
    """The untrained model's map, same axes as `head_map`; None where no baseline was asked."""
    return answer.extra.get(UNTRAINED)


def compare(answer: Answer) -> Comparison | None:
    """How an answer and its untrained baseline compare; None where no baseline was asked."""
    other = baseline_of(answer)
    if other is None:
        return None
    mine, theirs = (np.asarray(one.values, dtype=np.float64).ravel() for one in (answer.head_map, other))
    both = np.isfinite(mine) & np.isfinite(theirs)
    return Comparison(_mean(mine), _mean(theirs), _spearman(mine[both], theirs[both]), int(both.sum()))


def comparison_json(answer: Answer) -> dict[str, Any] | None:
    """The same as plain values, for ``--json``; undefined ones stay NaN."""
    found = compare(answer)
    if found is None:
        return None
    return {
        "kind": UNTRAINED,
        "trained_mean": found.trained,
        "untrained_mean": found.untrained,
        "rank_correlation": found.rank_correlation,
    }


def comparison_line(answer: Answer) -> str:
    """One line for a reader: both means and the rank correlation; empty where no baseline was asked."""
    found = compare(answer)
    if found is None:
        return ""
    ranks = "" if np.isnan(found.rank_correlation) else f"; rank correlation {found.rank_correlation:.2f}"
    over = f" over {found.compared}" if ranks else ""
    return f"mean {_number(found.trained)} trained, {_number(found.untrained)} untrained{ranks}{over}"


def _mean(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of ranks, ties sharing their mean rank; NaN where either side does not vary."""
    if one.size < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    ranks = [pd.Series(values).rank().to_numpy() for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3g}"
