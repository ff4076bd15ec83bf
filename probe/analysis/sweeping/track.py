"""One group of cases on its way through a model, edited in one layer at a time and resumed behind it."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.sweeping.prefix import MOST_BYTES, Feed
from probe.analysis.sweeping.reading import read
from probe.analysis.sweeping.stack import Hidden, Stack, stacked
from probe.analysis.sweeping.tasks import Task

HEAD_ROWS = 512  # rows of logits at a time
MOST_TOKENS = 1024  # tokens in one forward, where several heads go through the rest of the model together


class Track:
    """A group, and the hidden states that enter the layer whose heads are edited now.

    They are those of the unedited run, and move on with the sweep: whatever its length, one layer's are held.
    """

    def __init__(self, feed: Feed, stack: Stack) -> None:
        self.feed, self.stack = feed, stack
        self._at = 0
        self._entering: Hidden | None = None

    def enter(self, block: int) -> Hidden | None:
        """What enters a block in the unedited run; None before the first."""
        if block < self._at:
            self._at, self._entering = 0, None
        if block > self._at:
            self._entering = self.stack.run(self.feed, start=self._at, entering=self._entering, stop=block)
            self._at = block
        return self._entering

    def through(self, block: int) -> Hidden:
        """What block `block` makes of it, under whatever session is open; `enter` must have been called before."""
        made: Hidden = self.stack.run(self.feed, start=block, entering=self._entering, stop=block + 1)
        return made

    def together(self) -> int:
        """How many heads may go through the rest of the model in one forward."""
        if self._entering is not None and not self._entering.alone:
            return 1
        by_tokens = MOST_TOKENS // (len(self.feed.ids) * self.feed.width)
        by_bytes = MOST_BYTES // self.feed.bytes if self.feed.bytes else by_tokens
        return max(1, min(by_tokens, by_bytes))

    def logits(
        self, start: int, made: Sequence[Hidden]
    ) -> Iterator[tuple[range, Float[Tensor, "sequence row vocab"]]]:
        """The rest of the model from block `start` on: scored rows, and their logits, a few at a time."""
        copies, scored = len(made), self.feed.group.scored
        call = partial(self.feed, copies)
        last = self.stack.run(call, start=start, entering=stacked(made), stop=len(self.stack))
        width = max(1, HEAD_ROWS // (copies * len(self.feed.ids)))
        if "logits_to_keep" not in self.feed.accepts:
            width = len(scored)
        for first in range(scored.start, scored.stop, width):
            rows = range(first, min(first + width, scored.stop))
            kept = torch.tensor(rows, device=self.feed.ids.device) - self.feed.start
            output = self.stack.run(partial(call, kept), start=len(self.stack), entering=last)
            yield rows, self.feed.logits(output, kept)

    def numbers(self, task: Task, start: int, made: Sequence[Hidden]) -> Float[Tensor, "number copy case"]:
        """The task's numbers of every case, for each of several outputs of block ``start - 1``."""
        parts = [read(task, self.feed.group.cases, rows, logits) for rows, logits in self.logits(start, made)]
        found = torch.cat(parts, dim=-1).mean(-1)
        return found.reshape(found.shape[0], len(made), -1)

    def base(self, task: Task) -> Float[Tensor, "number case"]:
        """The task's numbers without any edit."""
        whole = self.stack.run(self.feed, stop=len(self.stack))
        return self.numbers(task, len(self.stack), [whole])[:, 0]
