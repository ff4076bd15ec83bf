"""Which documents go through the model together: those of similar length, within a budget of tokens."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Sized(Protocol):
    """Anything with a number of tokens."""

    def __len__(self) -> int:
        """Its tokens."""


Item = TypeVar("Item", bound=Sized)


def batches(items: Sequence[Item], budget: int, *, padded: bool = True) -> Iterator[list[Item]]:
    """Items by length, the longest first, in batches of at most `budget` tokens with padding.

    An item longer than the budget goes alone. Without `padded` only items of one length go together. Every item comes
    exactly once; where lengths are equal, in the order given.
    """
    batch: list[Item] = []
    for item in sorted(items, key=len, reverse=True):
        width = len(batch[0]) if batch else len(item)
        if batch and ((len(batch) + 1) * width > budget or (not padded and len(item) != width)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
