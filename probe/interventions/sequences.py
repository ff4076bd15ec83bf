"""Which sequence of a session each row of a call is, counted from the first that is seen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from probe.seam.call import AttentionCall

_first: ContextVar[int] = ContextVar("first sequence", default=0)


@contextmanager
def counting_from(first: int) -> Iterator[None]:
    """Sessions made inside count their sequences from `first`: for runs that take one of many prompts per session."""
    token = _first.set(first)
    try:
        yield
    finally:
        _first.reset(token)


class Order:
    """Counts the sequences of one session from 0, a session that opens late as well; copies for beams count once.

    Inside `counting_from` it starts at another number.

    Rows are copies where they share a number, where they share announced spans, or, where `expected` sequences are
    awaited and more come, where they come in equal runs of equal tokens.
    """

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self._seen: dict[tuple[bool, int], int] = {}
        self._next = {True: _first.get(), False: _first.get()}

    def of(self, call: AttentionCall) -> tuple[int, ...]:
        """The count of each row; a KV-cached continuation keeps it."""
        text = call.place.tower in ("decoder", "encoder", "cross")
        numbers = call.batch.prompts
        new = [row for row, number in enumerate(numbers) if (text, number) not in self._seen]
        if new:
            groups = self._groups(call, new)
            for row, group in zip(new, groups, strict=True):
                self._seen[text, numbers[row]] = self._next[text] + group
            self._next[text] += max(groups) + 1
        return tuple(self._seen[text, number] for number in numbers)

    def _groups(self, call: AttentionCall, new: Sequence[int]) -> list[int]:
        """For each new row, the number of its group of copies."""
        batch = call.batch
        spans = batch.spans if len(batch.spans) == len(batch.prompts) else ()
        groups = _numbered([id(spans[row]) if spans else batch.prompts[row] for row in new])
        width, awaited = max(groups) + 1, self.expected
        if awaited is None or awaited < 2 or width <= awaited or width % awaited or width != len(new):
            return groups
        copies = width // awaited
        if batch.tokens is None or len(batch.tokens) != len(batch.prompts):
            return groups
        runs = batch.tokens[list(new)].reshape(awaited, copies, -1)
        return (
            [row // copies for row in range(width)]
            if torch.equal(runs, runs[:, :1].expand_as(runs))
            else groups
        )


def _numbered(keys: Sequence[int]) -> list[int]:
    """Keys by the order in which they first come."""
    known = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [known[key] for key in keys]
