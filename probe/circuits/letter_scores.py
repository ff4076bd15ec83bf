"""What each head says of the options of a multiple-choice question by itself, letter by letter."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.lens import Lens
from probe.circuits.looks import ByLayer
from probe.circuits.study import Study
from probe.prompts.pairs import Pair
from probe.prompts.pairs.answers import only_token

RIGHT, OTHER, ENDING = "right_letter", "other_letter", "_letter"


@dataclass(frozen=True)
class Letters:
    """The letters of every pair as answers, in one order, and which of them is right."""

    tokens: tuple[tuple[int, ...], ...]
    right: Int[np.ndarray, " pair"]

    @property
    def chance(self) -> float:
        """Share of letters that is right by chance."""
        return 1 / len(self.tokens[0])


def letters_of(case: Study) -> Letters:
    """The letters that answer: those of the marks ``…_letter``; without a tokenizer right and wrong alone.

    Raises:
        InputError: a letter is several tokens as an answer.
    """
    tokens = [_letters(pair, case.loaded.tokenizer) for pair in case.pairs]
    right = [some.index(pair.right[0]) for some, pair in zip(tokens, case.pairs, strict=True)]
    return Letters(tuple(tokens), np.array(right))


def _letters(pair: Pair, tokenizer: Any) -> tuple[int, ...]:
    found = {pair.right[0], pair.wrong[0]}
    if tokenizer is not None:
        for mark, place in pair.marks.items():
            if mark.endswith(ENDING) and mark not in (RIGHT, OTHER):
                letter = pair.clean.str_tokens[place].strip(" \u0120\u2581\n")
                found.add(only_token(pair.clean.text, f" {letter}", tokenizer))
    return tuple(sorted(found))


def letter_scores(
    case: Study, batch: Batch, letters: Letters
) -> dict[int, Float[Tensor, "head pair letter"]]:
    """The logit that each head adds to each letter at the last position, less what it adds to the first one.

    The final norm's scale is held. Letters are in the order of `letters`.

    Raises:
        CaptureError: what each head adds cannot be told in this model.
    """
    trace = case.engine.record(batch, "clean", ["z", "resid_post"])
    last = trace.anatomy.blocks[-1].place.layer
    lens = Lens.of(trace.anatomy, trace.value("resid_post", last)[:, 0, -1])
    tokens = [letters.tokens[number] for number in batch.numbers]
    directions = []
    for one in range(1, len(tokens[0])):
        pairs = [
            replace(pair, right=(some[one],), wrong=(some[0],))
            for pair, some in zip(batch.pairs, tokens, strict=True)
        ]
        directions.append(lens.difference(Batch(batch.numbers, tuple(pairs))).direction)
    stacked = torch.stack(directions, dim=-1)
    made = {}
    for layer in trace.layers("z"):
        heads, _ = trace.head_writes(layer)
        scores = torch.einsum("phd,pdl->hpl", heads[:, :, -1].to(stacked), stacked)
        made[layer] = torch.nn.functional.pad(scores, (1, 0)).cpu()
    return made


def letter_right(scores: Mapping[int, Tensor], right: Tensor) -> ByLayer:
    """1 where a head gives the right letter more than every other one, else 0: ``[head, pair]``."""
    made = {}
    for layer, one in scores.items():
        own = one.gather(-1, right[None, :, None].expand(one.shape[0], -1, 1))
        made[layer] = ((one >= own).sum(-1) == 1).double()
    return made


def margin(scores: Mapping[int, Tensor], right: Tensor) -> ByLayer:
    """The right letter's score less the mean of the others', in logits: ``[head, pair]``."""
    made = {}
    for layer, one in scores.items():
        own = one.gather(-1, right[None, :, None].expand(one.shape[0], -1, 1))[..., 0]
        made[layer] = own - (one.sum(-1) - own) / (one.shape[-1] - 1)
    return made
