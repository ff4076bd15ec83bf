"""The tasks that pairs can be made for, by name; the code of each is loaded when it is asked."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probe.errors import UnknownNameError, UsageError
from probe.prompts.pairs.pair import PairSet
from probe.prompts.pairs.parts import Part, draw

Make = Callable[[Any, int, int], PairSet]  # (tokenizer, count, seed)


@dataclass(frozen=True)
class PairTask:
    """A task: what it asks of a model, who made it known, and where its maker is (``module:function``)."""

    where: str
    summary: str
    paper: str


PAIR_TASKS: Mapping[str, PairTask] = {
    "ioi": PairTask(
        "probe.prompts.pairs.ioi:ioi_pairs",
        "Who gets the object: of two names, the one that was not said twice",
        "Wang et al. 2023 (arXiv:2211.00593)",
    ),
    "colored_objects": PairTask(
        "probe.prompts.pairs.colored_objects:colored_objects_pairs",
        "Which color the asked one of three things has",
        "Merullo et al. 2024 (arXiv:2310.08744)",
    ),
    "greater_than": PairTask(
        "probe.prompts.pairs.greater_than:greater_than_pairs",
        "Which years may end a span that began in a given one",
        "Hanna et al. 2023 (arXiv:2305.00586)",
    ),
    "successor": PairTask(
        "probe.prompts.pairs.successor:successor_pairs",
        "What comes next in an ordinal list: numbers, days, months, letters",
        "Gould et al. 2024 (arXiv:2312.09230)",
    ),
    "arithmetic": PairTask(
        "probe.prompts.pairs.arithmetic:arithmetic_pairs",
        "The sum of two small numbers",
        "Mamidanna et al. 2025 (All-for-One)",
    ),
    "arithmetic_three": PairTask(
        "probe.prompts.pairs.arithmetic:arithmetic_three_pairs",
        "The sum of three small numbers",
        "Mamidanna et al. 2025 (All-for-One)",
    ),
    "counterfactual": PairTask(
        "probe.prompts.pairs.counterfactual:counterfactual_pairs",
        "What the context states, against what is remembered",
        "Basu et al. 2025 (D_copy)",
    ),
    "counterfactual_memory": PairTask(
        "probe.prompts.pairs.counterfactual:counterfactual_memory_pairs",
        "What is remembered, where the context states something unrelated",
        "Basu et al. 2025 (D_memory)",
    ),
    "docstring": PairTask(
        "probe.prompts.pairs.docstring:docstring_pairs",
        "Which argument of a signature the docstring describes next",
        "Heimersheim and Janiak 2023",
    ),
    "multiple_choice": PairTask(
        "probe.prompts.pairs.multiple_choice:multiple_choice_pairs",
        "The letter of the option that is right",
        "Lieberum et al. 2023 (arXiv:2307.09458)",
    ),
    "recall": PairTask(
        "probe.prompts.pairs.recall:recall_pairs",
        "Where somebody is, as the text says",
        "after Disentangling Recall and Reasoning 2025",
    ),
    "reasoning": PairTask(
        "probe.prompts.pairs.recall:reasoning_pairs",
        "Where a thing is, from who has it and where that one is",
        "after Disentangling Recall and Reasoning 2025",
    ),
}


def make_pairs(
    task: str, tokenizer: Any, *, count: int = 16, seed: int = 0, part: Part | None = None
) -> PairSet:
    """Seeded minimal pairs of a task, of equal token length for this tokenizer, no two of them the same.

    With a `part`, pairs of the one half of all prompts: what is found on ``train`` can be held to ``held_out``,
    whatever the seeds.

    Raises:
        UnknownNameError: no such task.
        UsageError: fewer than one pair is asked, or there is no tokenizer.
        InputError: this tokenizer splits the words that the task needs, or they make too few different pairs.
    """
    if task not in PAIR_TASKS:
        raise UnknownNameError.of("task", task, PAIR_TASKS)
    if count < 1:
        raise UsageError(f"{count} pairs of {task} were asked; ask for at least 1")
    if tokenizer is None:
        raise UsageError(f"pairs of {task} were asked; the model has no tokenizer: give pairs of your own")
    module, _, name = PAIR_TASKS[task].where.partition(":")
    make: Make = getattr(importlib.import_module(module), name)
    return draw(lambda some: make(tokenizer, some, seed), count, part)
