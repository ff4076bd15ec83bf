"""The heads that a pattern robs of their attention, by name."""

from dataclasses import replace

import numpy as np

from probe.experiments.retrieval_split import RETRIEVAL_HEAD
from probe.report import Answer
from probe.report.pattern_costs import LOST
from probe.report.ranking import cells, head_name

NAMED = 5  # heads that are named for each pattern


def named(mass: Answer, spec: str, retrieval: Answer | None = None) -> Answer:
    """The answer on mean mass kept, with notes that name the heads that lose most of theirs.

    With retrieval scores at hand, a head that is a retrieval head is told to be one.
    """
    found = [(value, layer, head) for layer, head, value in cells(mass.head_map) if np.isfinite(value)]
    losing = sorted(one for one in found if one[0] < LOST)
    scores: dict[str, float] = {}
    if retrieval is not None:
        found_there = cells(retrieval.head_map)
        scores = {head_name(retrieval.tower, layer, head): value for layer, head, value in found_there}
    lines = []
    for value, layer, head in losing[:NAMED]:
        name = head_name(mass.tower, layer, head)
        told = "; it is a retrieval head" if scores.get(name, 0.0) >= RETRIEVAL_HEAD else ""
        lines.append(f"{name} loses {100 * (1 - value):.0f} % under {spec}{told}")
    counted = f"{len(losing)} of {len(found)} heads keep less than {100 * LOST:.0f} % of their mass"
    return replace(mass, notes=(*mass.notes, *lines, counted))
