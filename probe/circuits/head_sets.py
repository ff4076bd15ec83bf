"""Sets of heads: what a task loses without each head, the heads that it loses most by, and matched random ones."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.attribution import attribute
from probe.circuits.controls import drawn
from probe.circuits.patching import patch_each
from probe.circuits.study import Study
from probe.circuits.where import Where

By = Literal["attribution", "activation"]
Head = tuple[int, int]  # layer, head
HeadSet = frozenset[Head]
Scores = Mapping[int, Float[Tensor, "_"]]  # by layer


def head_losses(case: Study, groups: Sequence[Int[Tensor, "_"]], by: By) -> list[Scores]:
    """For each group of pairs: the share of its measure that the corrupt prompt's z takes from the clean run, by head.

    ``attribution`` is that to first order, from one backward pass; ``activation`` runs every head.
    """
    where = Where.of("all", case.pairs)
    if by == "attribution":
        effects = attribute(case, ["z"], where, "noise")["z"]
    else:
        effects = patch_each(case, "z", where, "noise")
    lost = {layer: one.sum(1) * case.gap for layer, one in effects.scores.items()}
    return [
        {layer: one[:, own].mean(-1) / case.clean[own].mean() for layer, one in lost.items()}
        for own in groups
    ]


def ranked(scores: Scores) -> list[Head]:
    """All heads, the one without which most is lost first."""
    heads = [(layer, head) for layer in sorted(scores) for head in range(len(scores[layer]))]
    return sorted(heads, key=lambda one: -float(scores[one[0]][one[1]]))


def by_layer(heads: HeadSet) -> dict[int, tuple[int, ...]]:
    """The heads of each layer, both in order."""
    layers = sorted({layer for layer, _ in heads})
    return {layer: tuple(sorted(head for own, head in heads if own == layer)) for layer in layers}


def matched_among(circuit: HeadSet, free: HeadSet, generator: np.random.Generator) -> HeadSet:
    """As many free heads of every layer as the circuit has there; those that are missing come from other layers."""
    found = drawn(by_layer(circuit), by_layer(free), generator)
    made = frozenset((layer, head) for layer, heads in found.items() for head in heads)
    rest = sorted(free - made)
    missing = min(len(circuit) - len(made), len(rest))
    return made | {rest[n] for n in generator.choice(len(rest), missing, replace=False)}


def grid(scores: Scores) -> Float[Tensor, "layer head"]:
    """The scores as one table, NaN where a layer has fewer heads."""
    width = max(len(one) for one in scores.values())
    rows = [
        torch.nn.functional.pad(scores[n].double(), (0, width - len(scores[n])), value=torch.nan)
        for n in sorted(scores)
    ]
    return torch.stack(rows)
