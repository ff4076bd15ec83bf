"""Numbers on two answers to the same question: how alike heads are, and which of them moved."""

import math

import dash_mantine_components as dmc
import numpy as np

from probe.report.answer import Answer
from probe.report.intervals import weighed_bounds
from probe.report.ranking import cells, head_axis, head_name
from probe_app.said import shown

_MOVERS = 15


def statistics(one: Answer, other: Answer) -> object:
    """Rank correlation and mean difference over heads, with intervals over prompts where both ran the same number."""
    x, y = _paired(one, other)
    rows = [["heads with both values", str(len(x))]]
    if len(x) > 2:
        rows.append(["Spearman correlation over heads", f"{_spearman(x, y):.3f}"])
    if len(x):
        rows.append(["mean, first", f"{shown(float(x.mean()))} {one.unit}"])
        rows.append(["mean, second", f"{shown(float(y.mean()))} {one.unit}"])
        rows.append(["mean difference", f"{shown(float((y - x).mean()))} {one.unit}"])
    found = _over_prompts(one, other)
    if found is None:
        note = "No interval: it needs the same prompts in both reports, at least two of them."
    else:
        low, high, prompts = found
        rows.append([f"95 % interval over {prompts} prompts", f"{shown(low)} to {shown(high)}"])
        note = (
            "Interval: percentile bootstrap over prompts, taken in pairs, of the mean difference over heads."
        )
    return dmc.Paper(
        [
            dmc.Title("In numbers", order=2, size="h4"),
            dmc.Table(data={"body": rows}, withTableBorder=True),
            dmc.Text(note, size="xs", c="dimmed"),
        ],
        withBorder=True,
        p="xs",
    )


def movers(one: Answer, other: Answer) -> object:
    """The heads whose rank changed most."""
    before, after = _ranks(one), _ranks(other)
    both = sorted(before.keys() & after.keys(), key=lambda name: (-abs(after[name] - before[name]), name))
    rows = [
        [name, str(before[name]), str(after[name]), f"{before[name] - after[name]:+d}"]
        for name in both[:_MOVERS]
    ]
    return dmc.Paper(
        [
            dmc.Title("Ranks that moved most", order=2, size="h4"),
            dmc.Table(data={"head": ["head", "first", "second", "up by"], "body": rows}, striped=True),
        ],
        withBorder=True,
        p="xs",
    )


def _paired(one: Answer, other: Answer) -> tuple[np.ndarray, np.ndarray]:
    values = {(layer, head): value for layer, head, value in cells(other.head_map)}
    pairs = [(value, values.get((layer, head), math.nan)) for layer, head, value in cells(one.head_map)]
    found = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(1)]
    return found[:, 0], found[:, 1]


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr  # slow to import, and needed on this page alone

    return float(spearmanr(x, y).statistic)


def _over_prompts(one: Answer, other: Answer) -> tuple[float, float, int] | None:
    a, b = one.by_prompt, other.by_prompt
    if a is None or b is None or a.shape != b.shape or a.sizes["prompt"] < 2:
        return None
    each = (b.values - a.values).reshape(a.sizes["prompt"], -1)
    means = np.nanmean(np.where(np.isfinite(each), each, np.nan), axis=1)[:, None]
    low, high = weighed_bounds(means, np.ones_like(means), 0.95, 0)[:, 0]
    return float(low), float(high), len(means)


def _ranks(answer: Answer) -> dict[str, int]:
    axis = head_axis(answer.head_map)
    finite = [
        (value, head_name(answer.tower, layer, head, axis))
        for layer, head, value in cells(answer.head_map)
        if math.isfinite(value)
    ]
    ordered = sorted(finite, key=lambda one: (-one[0] if answer.better == "high" else one[0], one[1]))
    return {name: rank for rank, (_, name) in enumerate(ordered, 1)}
