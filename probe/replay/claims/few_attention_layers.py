"""A few attention layers carry what the last token needs; all the others together carry next to nothing (or not)."""

from typing import Any

import numpy as np

from probe.circuits.layer_sets import attention_subset
from probe.models import LoadedModel
from probe.replay.claim import Claim
from probe.replay.finding import Estimate, Finding, Row
from probe.replay.intervals import interval
from probe.replay.work import Work

TASKS, SEEDS, COUNT, THRESHOLD, DRAWS = ("ioi", "successor", "docstring"), 4, 16, 0.9, 5
MOST_LAYERS, MOST_LEFT = 1 / 3, 0.2  # "few": at most a third of the layers; "nothing": at most a fifth


def measure(work: Work) -> Finding:
    """How many layers reach 0.9 on the pairs that choose them, and what they and the rest recover on other pairs."""
    tasks, seeds = work.few(TASKS, 1), range(1 if work.small else SEEDS)
    found: dict[str, np.ndarray] = {}
    for task in tasks:
        runs = [work.keep(f"{task} {seed}", _one, work.model, task, seed) for seed in seeds]
        found[task] = np.asarray(runs, np.float64)  # seed, number
    share = {task: float(one[:, 0].mean()) for task, one in found.items()}
    left = {task: float(one[:, 2].mean()) for task, one in found.items()}
    few = {task: share[task] <= MOST_LAYERS and left[task] <= MOST_LEFT for task in tasks}
    rows: list[Row] = []
    for task, one in found.items():
        rows += [
            Row(f"{task}: share of layers that recover {THRESHOLD} on the pairs that chose", _over(one[:, 0])),
            Row(f"{task}: recovery of these layers on other pairs; control: as many random layers", _over(one[:, 1]),
                control=_over(one[:, 3])),
            Row(f"{task}: recovery of all the others together; control: all but as many random ones", _over(one[:, 2]),
                control=_over(one[:, 4])),
        ]  # fmt: skip
    return Finding(
        holds=all(few.values()),
        brief="; ".join(
            f"{task}: {share[task]:.0%} of the layers, the rest {left[task]:.2f}" for task in tasks
        ),
        rows=tuple(rows),
        found=(
            f"Few layers suffice and the rest adds next to nothing on {sum(few.values())} of {len(few)} tasks "
            f"({', '.join(task for task in tasks if few[task]) or 'none'}).",
        ),
    )


def _over(values: np.ndarray) -> Estimate:
    low, high = interval(values) if len(values) > 1 else (float("nan"), float("nan"))
    return Estimate(float(values.mean()), low, high)


def _one(loaded: LoadedModel, task: str, seed: int) -> list[float]:
    """Share of layers, recovery and complement on the other half, and the same of random layers."""
    report = attention_subset(loaded, task, THRESHOLD, draws=DRAWS, count=COUNT, seed=seed)
    (key,) = report
    extra: Any = report.answer(key).extra
    n = extra["recovery"].sizes["size"] - 1
    size = float(extra["smallest"])
    size = n if np.isnan(size) else int(size)
    held = {name: extra[name].sel(half="held", size=size) for name in ("recovery", "complement")}
    drawn = {
        name: float(extra[name].sel(half="held", size=size).mean())
        for name in ("random", "random_complement")
    }
    numbers = [
        size / n,
        float(held["recovery"]),
        float(held["complement"]),
        drawn["random"],
        drawn["random_complement"],
    ]
    return [round(one, 4) for one in numbers]


CLAIM = Claim(
    claimed="the last token's answer is read by few attention layers: patching their outputs there from another "
    "prompt "
    "carries the other prompt's answer over, and the remaining layers can take their outputs from anywhere.",
    data=f"{COUNT} seeded pairs of each of {', '.join(TASKS)}, {SEEDS} seeds; half of the pairs choose the layers, "
    "the "
    "other, held-out half is measured.",
    measure=measure,
    how=(
        "`attention_subset` at the last position: attention outputs of the clean run are put into the corrupt "
        "one, greedily "
        f"by recovery, until {THRESHOLD} is recovered on the pairs that choose. Numbers are means over seeds with "
        "their "
        f"bootstrap interval; controls are {DRAWS} random orders of the layers.",
        "The claim holds where on every task at most a third of the layers is needed and the others together "
        "recover at "
        f"most {MOST_LEFT} on the other pairs. Both bounds are ours; the papers give none.",
    ),
    settings={"tasks": list(TASKS), "seeds": SEEDS, "count": COUNT, "threshold": THRESHOLD, "draws": DRAWS},
)
