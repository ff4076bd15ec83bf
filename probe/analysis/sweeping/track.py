"""One group of cases on its way through a model, edited in one layer at a time and resumed behind it."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.ready import require_edited
from probe.analysis.sweeping.cases import MOST_TOKENS
from probe.analysis.sweeping.kept import KeptAttention, edits_z_alone, recording
from probe.analysis.sweeping.prefix import MOST_BYTES, Feed
from probe.analysis.sweeping.reading import read
from probe.analysis.sweeping.stack import Hidden, Stack, repeated, stacked
from probe.analysis.sweeping.tasks import Task
from probe.seam.places import attention_modules
from probe.seam.session import Session

HEAD_ROWS = 256  # rows of logits at a time: few enough to stay near the processor


class Track:
    """A group, and the hidden states that enter the layer whose heads are edited now.

    They are those of the unedited run, and move on with the sweep: whatever its length, one layer's are held.
    """

    def __init__(self, feed: Feed, stack: Stack, task: Task) -> None:
        self.feed, self.stack, self.task = feed, stack, task
        self.acted = False  # whether any edit so far changed something
        self.attention = attention_modules(feed.model)
        self._at = 0
        self._kept: tuple[int, KeptAttention | None] | None = None
        self._entering: Hidden | None = None

    def enter(self, block: int) -> Hidden | None:
        """What enters a block in the unedited run; None before the first."""
        if block < self._at:
            self._at, self._entering = 0, None
        if block > self._at:
            self._entering = self.stack.run(self.feed, start=self._at, entering=self._entering, stop=block)
            self._at = block
        return self._entering

    def through(self, block: int, interventions: Sequence[Any]) -> tuple[Hidden | None, list[bool]]:
        """What block `block` makes of it under interventions, one batch after another, and which of them have one.

        One that changes nothing here has none. Those that edit z alone share the layer's attention
        (`probe.analysis.sweeping.kept`); under others the block runs once for each, in a session of its own.
        """
        kept = self._keep(block, interventions[0])
        if kept is None:
            runs = [self._edited(block, one) for one in interventions]
            acted = [run for run in runs if run is not None]
            return (stacked(acted) if acted else None), [run is not None for run in runs]
        edits = [kept.edited(one) for one in interventions]
        several = [z for z in edits if z is not None]
        if not several:
            return None, [False] * len(edits)
        with kept.answering(kept.made_of(several)):
            entering = repeated(self._entering, len(several))
            call = partial(self.feed, len(several))
            found: Hidden = self.stack.run(call, start=block, entering=entering, stop=block + 1)
        return found, [z is not None for z in edits]

    def unedited(self, block: int) -> Hidden:
        """What block `block` makes of it without any edit."""
        found: Hidden = self.stack.run(self.feed, start=block, entering=self._entering, stop=block + 1)
        return found

    def _edited(self, block: int, intervention: Any) -> Hidden | None:
        with Session(self.feed.model, (), [intervention]) as session:
            session.announce(self.feed.group.spans)
            made = self.unedited(block)
            require_edited([intervention], session)
            return None if session.idle else made

    def _keep(self, block: int, intervention: Any) -> KeptAttention | None:
        """The attention module that an edit of z is about, as the unedited run left it."""
        inside = [name for name in self.attention if self.stack.of(name) == block]
        if not edits_z_alone(intervention) or len(inside) != 1:
            return None
        if self._kept is None or self._kept[0] != block:
            self._kept = None
            with recording(self.feed.model, inside[0], self.feed.group.spans) as found:
                self.unedited(block)
            self._kept = block, found[0] if found else None
        return self._kept[1]

    def together(self) -> int:
        """How many heads may go through the rest of the model in one forward."""
        if not self.feed.repeats or (self._entering is not None and not self._entering.alone):
            return 1
        by_tokens = MOST_TOKENS // (len(self.feed.ids) * self.feed.width)
        by_bytes = MOST_BYTES // self.feed.bytes if self.feed.bytes else by_tokens
        return max(1, min(by_tokens, by_bytes))

    def logits(
        self, start: int, made: Hidden, copies: int
    ) -> Iterator[tuple[range, Float[Tensor, "sequence row vocab"]]]:
        """The rest of the model from block `start` on, for several copies: scored rows and logits, a few at a time."""
        scored, call = self.feed.group.scored, partial(self.feed, copies)
        last = self.stack.run(call, start=start, entering=made, stop=len(self.stack))
        width = max(1, HEAD_ROWS // (copies * len(self.feed.ids)))
        if "logits_to_keep" not in self.feed.accepts:
            width = len(scored)
        for first in range(scored.start, scored.stop, width):
            rows = range(first, min(first + width, scored.stop))
            kept = torch.tensor(rows, device=self.feed.ids.device) - self.feed.start
            output = self.stack.run(partial(call, kept), start=len(self.stack), entering=last)
            yield rows, self.feed.logits(output, kept)

    def numbers(self, start: int, made: Hidden, copies: int) -> Float[Tensor, "number copy case"]:
        """The task's numbers of every case, for each copy of the group in an output of block ``start - 1``."""
        rows = self.logits(start, made, copies)
        parts = [read(self.task, self.feed.group.cases, part, logits) for part, logits in rows]
        found = torch.cat(parts, dim=-1).mean(-1)
        return found.reshape(found.shape[0], copies, -1)

    def edited(self, block: int, interventions: Sequence[Any]) -> Float[Tensor, "number edit case"]:
        """The task's numbers under each intervention on block `block`; where one changes nothing, those of the base."""
        made, acted = self.through(block, interventions)
        found = self.base[:, None].repeat(1, len(acted), 1)
        if made is not None:
            self.acted = True
            found[:, torch.tensor(acted)] = self.numbers(block + 1, made, sum(acted))
        return found

    @cached_property
    def base(self) -> Float[Tensor, "number case"]:
        """The task's numbers without any edit."""
        whole: Hidden = self.stack.run(self.feed, stop=len(self.stack))
        return self.numbers(len(self.stack), whole, 1)[:, 0]
