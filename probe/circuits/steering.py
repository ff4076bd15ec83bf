"""Steering by the attributed sentence: it is said once more before the question, and the answer looked at again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import batches
from probe.circuits.measures import measure_of
from probe.circuits.sources import Asking
from probe.circuits.study import Study
from probe.prompts import Prompt
from probe.prompts.pairs import Pair

RUNS = ("before", "attributed", "random")


@dataclass(frozen=True)
class Steered:
    """Accuracy and logit difference of every pair, by run; see `RUNS`."""

    right: Float[Tensor, "run pair"]
    difference: Float[Tensor, "run pair"]


def steer(case: Study, asking: Sequence[Asking], chosen: Sequence[int]) -> Steered:
    """Insert the chosen sentence, or a random other one of the context, before the question of each clean prompt."""
    drawn = np.random.default_rng(case.options.seed)
    right, difference = [], []
    prompts: dict[str, list[Prompt]] = {name: [] for name in RUNS}
    for pair, one, number in zip(case.pairs, asking, chosen, strict=True):
        others = [n for n in range(len(one.context)) if n != number] or [number]
        picked = {"attributed": number, "random": int(drawn.choice(others))}
        prompts["before"].append(pair.clean)
        for name, at in picked.items():
            prompts[name].append(inserted(pair.clean, one, at, case))
    for some in prompts.values():
        numbers = _answers(case, some)
        right.append(numbers["accuracy"])
        difference.append(numbers["logit_difference"])
    return Steered(torch.stack(right), torch.stack(difference))


def inserted(prompt: Prompt, asking: Asking, number: int, case: Study) -> Prompt:
    """The prompt with one sentence of its context said again before its question."""
    cut = (prompt.offsets or ())[asking.start][0]
    sentence = asking.context[number].text.strip()
    before, question = prompt.text[:cut].rstrip(), prompt.text[cut:].lstrip()
    return Prompt.of(
        f"{before} {sentence} {question}", case.loaded.tokenizer, id=prompt.id, answer=prompt.answer
    )


def _answers(case: Study, prompts: Sequence[Prompt]) -> Mapping[str, Tensor]:
    """Numbers of every prompt, held to its pair's answers."""
    pairs = [
        Pair(pair.id, one, one, pair.right, pair.wrong) for pair, one in zip(case.pairs, prompts, strict=True)
    ]
    groups = batches(pairs)
    order = torch.argsort(torch.tensor([number for batch in groups for number in batch.numbers]))
    made: dict[str, list[Tensor]] = {"accuracy": [], "logit_difference": []}
    for batch in groups:
        logits = case.engine.logits(batch, "clean").double()
        for name, parts in made.items():
            parts.append(measure_of(name)(logits, batch, logits).cpu())
    return {name: torch.cat(parts)[order] for name, parts in made.items()}
