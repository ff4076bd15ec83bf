"""Two halves of the pairs: what is found on the one is measured on the other."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from probe.circuits.study import Study
from probe.errors import InputError


class Halves(NamedTuple):
    """Numbers of the pairs that something is found on, and of those that it is held to."""

    found: Int[Tensor, "_"]
    held: Int[Tensor, "_"]


def halves(case: Study, what: str) -> Halves:
    """Every other pair, from the first and from the second on; raises `InputError` where there is one pair alone."""
    if len(case.pairs) < 2:
        raise InputError(
            f"{what} was asked of one pair; it is found on one half of the pairs and measured on the other: give two "
            "or more"
        )
    every = torch.arange(len(case.pairs))
    return Halves(every[::2], every[1::2])
