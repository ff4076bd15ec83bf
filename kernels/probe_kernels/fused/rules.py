"""From a `Mask` to what the kernels compile: a Triton function, numbers and a table for each of its predicates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe_kernels.fused.predicates import KINDS
from probe_kernels.mask import Mask


@dataclass(frozen=True)
class Rules:
    """Predicates that must all hold, and predicates of which one must hold, with their numbers and tables."""

    all_of: tuple[Any, ...]
    all_numbers: tuple[tuple[int, ...], ...]
    any_of: tuple[Any, ...]
    any_numbers: tuple[tuple[int, ...], ...]
    tables: tuple[Tensor, ...]

    @staticmethod
    def of(mask: Mask, nothing: Tensor) -> "Rules | None":
        """The rules of a mask; None where one of its predicates is known as a torch function only."""
        every = (*mask.all_of, *mask.any_of)
        twins = [predicate.twin for predicate in every]
        if any(twin is None or twin.kind not in KINDS for twin in twins):
            return None
        known = [twin for twin in twins if twin is not None]
        kinds = tuple(KINDS[twin.kind] for twin in known)
        numbers = tuple(twin.numbers or (0,) for twin in known)
        tables = tuple(
            nothing if twin.table is None else twin.table.to(nothing.device, torch.int8).contiguous()
            for twin in known
        )
        n = len(mask.all_of)
        return Rules(kinds[:n], numbers[:n], kinds[n:], numbers[n:], tables or (nothing,))

    @staticmethod
    def none(nothing: Tensor) -> "Rules":
        """No rule: everything is visible, but for what a table of the tile says."""
        return Rules((), (), (), (), (nothing,))
