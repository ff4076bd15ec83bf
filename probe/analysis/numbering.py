"""From the numbers that one session gives its sequences to their numbers in the whole run."""

from collections.abc import Iterable

from probe.metrics.base import CellKey


class Numbering:
    """A session counts from 0 in every tower; a resumed run goes on after the prompts that were finished before.

    Towers count apart, because one prompt may bring several images, or none.
    """

    def __init__(self, finished: dict[str, int] | None = None) -> None:
        self.first = dict(finished or {})  # tower -> number of sequences finished before this process
        self.next = dict(self.first)

    def __call__(self, key: CellKey) -> CellKey:
        """The key of the same cell in the whole run."""
        return key._replace(prompt=key.prompt + self.first.get(key.tower, 0))

    def finish(self, keys: Iterable[CellKey]) -> None:
        """Count the sequences of a finished batch (keys of the whole run)."""
        for key in keys:
            self.next[key.tower] = max(self.next.get(key.tower, 0), key.prompt + 1)
