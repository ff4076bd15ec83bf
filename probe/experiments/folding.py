"""Metrics folded over an experiment's own prompts, one forward each, numbered as the prompts are."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from probe.experiments.forwards import watch
from probe.models import LoadedModel
from probe.prompts import Prompt


def fold(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    metrics: Sequence[Any],
    interventions: Sequence[Any] = (),
    tell: Callable[[int], None] = lambda number: None,
) -> list[str]:
    """Run every prompt and fold it into the metrics; prompt `number` of the list is prompt `number` of their cells.

    `tell` is called with a prompt's number before it runs. Returns the lines that a reader of the numbers must see.
    """
    notes: dict[str, None] = {}
    for number, prompt in enumerate(prompts):
        tell(number)
        # A session numbers the sequences that it sees itself; fresh copies keep those numbers apart from ours.
        fresh = [copy.copy(metric) for metric in metrics]
        for one in fresh:
            one.cells = {}
        notes.update(dict.fromkeys(watch(loaded, prompt, fresh, interventions)))
        for metric, one in zip(metrics, fresh, strict=True):
            metric.cells.update({key._replace(prompt=number): cell for key, cell in one.cells.items()})
    return list(notes)
