"""Pairs of one length as tensors: they run together without padding, so that no number depends on its company."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probe.circuits.nodes import Side
from probe.prompts.pairs import Pair

MOST_TOKENS = 2048  # of the pairs of one batch


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs of equal length, with their numbers in the whole set."""

    numbers: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def length(self) -> int:
        """Tokens of every prompt."""
        return len(self.pairs[0])

    def __len__(self) -> int:
        return len(self.pairs)

    def ids(self, side: Side, device: torch.device) -> Int[Tensor, "pair position"]:
        """The tokens of the clean, or of the corrupt prompts."""
        prompts = [pair.clean if side == "clean" else pair.corrupt for pair in self.pairs]
        return torch.tensor([prompt.tokens for prompt in prompts], device=device)

    def at(self, mark: str) -> Int[Tensor, " pair"]:
        """Where a mark is, pair by pair."""
        return torch.tensor([pair.marks[mark] for pair in self.pairs])

    def positions(self, mark: str) -> Bool[Tensor, "pair position"]:
        """The positions of a mark as flags."""
        return torch.arange(self.length)[None] == self.at(mark)[:, None]


def batches(pairs: Sequence[Pair]) -> list[Batch]:
    """Pairs of equal length together, as many as one forward takes, in the order of their first ones."""
    found: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        found.setdefault(len(pair), []).append(number)
    parts = [
        numbers[start : start + size]
        for length, numbers in found.items()
        for size in [max(1, MOST_TOKENS // length)]
        for start in range(0, len(numbers), size)
    ]
    return [Batch(tuple(part), tuple(pairs[n] for n in part)) for part in parts]
