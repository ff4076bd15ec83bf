"""Two tasks share more of their heads than chance would have it (or not)."""

from itertools import combinations
from typing import Any

import numpy as np

from probe.circuits.overlap import circuit_overlap
from probe.models import LoadedModel
from probe.replay.claim import Claim
from probe.replay.finding import Estimate, Finding, Row
from probe.replay.work import Work

TASKS, COUNT, TOP, BY = ("ioi", "docstring", "successor", "greater_than"), 16, 0.1, "relp"


def measure(work: Work) -> Finding:
    """The share of heads that two tasks have in common, of their top tenth, and what chance gives."""
    pairs = work.few(list(combinations(TASKS, 2)), 1)
    found = {
        pair: work.keep("+".join(pair), _overlap, work.model, pair, 6 if work.small else COUNT, work.seed)
        for pair in pairs
    }
    above = [pair for pair, one in found.items() if one["chance_in_layers"] < 0.05]
    shares = np.asarray([one["share"] for one in found.values()])
    return Finding(
        holds=len(above) == len(found),
        brief=f"shared {shares.mean():.0%} of the heads on average, {len(above)} of {len(found)} pairs of tasks "
        "above chance",
        rows=tuple(
            Row(
                f"{one} and {other}: share of heads in both; control: random heads of the same layers",
                Estimate(numbers["share"]),
                "0.78 (IOI and Colored Objects, GPT-2 medium)" if (one, other) == TASKS[:2] else "–",
                Estimate(numbers["expected_in_layers"] / numbers["top"]),
            )
            for (one, other), numbers in found.items()
        ),
        found=(
            "Above chance in the same layers (p < 0.05): "
            f"{', '.join(' and '.join(pair) for pair in above) or 'none'}.",
            *(
                f"{one} and {other}: {numbers['shared']:.0f} of {numbers['top']} heads, p = "
                f"{numbers['chance_in_layers']:.3g}; "
                f"correlation of absolute scores {numbers['correlation']:.2f}."
                for (one, other), numbers in found.items()
            ),
        ),
    )


def _overlap(loaded: LoadedModel, tasks: tuple[str, str], count: int, seed: int) -> dict[str, float]:
    config: Any = loaded.model.config
    top = round(TOP * config.num_hidden_layers * config.num_attention_heads)
    report = circuit_overlap(loaded, *tasks, by=BY, top=top, count=count, seed=seed, min_accuracy=0.5)
    (key,) = report
    numbers = report.answer(key).extra["overlap"]
    named = {
        str(name): round(float(value), 5)
        for name, value in zip(numbers["number"].values, numbers.values, strict=True)
    }
    return {**named, "top": top}


CLAIM = Claim(
    claimed="tasks reuse the same components: in GPT-2 medium 78 % of the heads in the circuit for Colored "
    "Objects are in "
    "the circuit for indirect objects as well.",
    data=f"{COUNT} seeded pairs of each of {', '.join(TASKS)}. Nothing is chosen or held out. Colored Objects is "
    "left out: models of this size do "
    "not "
    "solve it.",
    measure=measure,
    how=(
        "A task's circuit is the tenth of all heads with the largest absolute score by relevance patching. The "
        "share is of "
        "the heads of one that are in the other. Control: the second circuit's heads drawn at random in its own "
        "layers, "
        "2000 times.",
        "The claim holds where every pair of tasks shares more than chance in the same layers (p < 0.05).",
    ),
    settings={"tasks": list(TASKS), "count": COUNT, "top": TOP, "by": BY},
)
