"""Every unit edited once, on every case: resumed behind its layer where that is right, else by whole forwards."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.ready import require_edited
from probe.analysis.sweeping.cases import Group
from probe.analysis.sweeping.kept import edits_z_alone
from probe.analysis.sweeping.plan import Plan
from probe.analysis.sweeping.prefix import Feed
from probe.analysis.sweeping.stack import Stack
from probe.analysis.sweeping.track import Track
from probe.analysis.sweeping.trial import differs, outside
from probe.analysis.sweeping.units import Unit, require_narrow
from probe.analysis.sweeping.whole import Whole
from probe.seam.session import Session

Scores = Float[Tensor, "number case"]

_TRIED_ROWS = 64  # rows, or tokens, of the trial at most


class Measure:
    """The numbers of a plan's task, without an edit and with each unit edited."""

    def __init__(self, plan: Plan, todo: Sequence[Unit]) -> None:
        self.plan, self.todo = plan, tuple(todo)
        self.groups = plan.groups
        self.acted = False  # whether any edit so far changed something
        self.stack, self.reason = self._stack()
        self._tracks: list[Track] = []

    @property
    def note(self) -> str:
        """How the numbers were made."""
        if self.stack is None:
            return f"every unit cost whole forwards: {self.reason}"
        resumed = "only the layer that is edited and those behind it ran for every unit"
        kept = ", and of the prompts only the rows from the first edited one on" if self.plan.cached else ""
        return f"{resumed}{kept}; held against whole forwards on the first and last unit"

    def base(self) -> Scores:
        """The numbers without an edit."""
        if self.stack is None:
            # By the same kernels as the edited forwards, so that their rounding is no effect.
            with Session(self.plan.loaded.model, (), (), mode="fused") as session:
                return self._joined(
                    [self._whole(number).numbers(self.plan.task, session) for number in self._each()]
                )
        return self._joined([track.base for track in self._opened(self.stack)])

    def edited(self) -> Iterator[tuple[Unit, Scores]]:
        """Every unit that is to be done, with its numbers."""
        if self.stack is None:
            for unit in self.todo:
                with self._session(unit) as session:
                    parts = [self._whole(number).numbers(self.plan.task, session) for number in self._each()]
                    require_edited(session.interventions, session)
                    require_narrow(unit, session)
                    self.acted = self.acted or not session.idle
                yield unit, self._joined(parts)
            return
        stack, tracks = self.stack, self._opened(self.stack)
        for block, units in groupby(self.todo, lambda unit: stack.of(unit.place.module) or 0):
            for track in tracks:
                track.enter(block)
            layer = list(units)
            size = min(track.together() for track in tracks)
            for start in range(0, len(layer), size):
                yield from self._batch(tracks, block, layer[start : start + size])

    def _batch(
        self, tracks: Sequence[Track], block: int, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Scores]]:
        edits = [unit.narrow(self.plan.edit) for unit in units]
        found = [track.edited(block, edits) for track in tracks]
        self.acted = self.acted or any(track.acted for track in tracks)
        for number, unit in enumerate(units):
            yield unit, self._joined([numbers[:, number] for numbers in found])

    def _stack(self) -> tuple[Stack | None, str]:
        plan = self.plan
        if not plan.options.resume:
            return None, "resume=False was asked"
        if plan.phase == "prefill" and any(group.cases[0].told < group.length for group in self.groups):
            return None, "with phase=prefill what follows the prompt is another forward"
        why = outside(plan.edit)
        if why is not None:
            return None, why
        ids = self.groups[0].ids[:1, :_TRIED_ROWS].to(plan.loaded.device)
        stack = Stack.found(plan.loaded.model, lambda: plan.loaded.model(input_ids=ids))
        if stack is None:
            return None, "the model declares no chain of blocks that each run once"
        trial = self._trial()
        # Of all units, not of those left: a sweep that was interrupted goes on the way it began.
        for unit in dict.fromkeys((plan.units[0], plan.units[-1])):
            why = differs(plan, stack, trial, unit)
            if why is not None:
                return None, why
        return stack, ""

    def _trial(self) -> Group:
        """What resuming is tried on: as little as says the same.

        A few tokens where every row is edited alike, fewer scored rows where not, and the first group as it is where
        it continues a prefix.
        """
        edit = self.plan.edit
        if self.plan.cached:
            return self.groups[0]
        if edits_z_alone(edit) and edit.target.queries is None and edit.target.phase == "both":
            return self.groups[0].head(_TRIED_ROWS)
        return self.groups[0].tail(_TRIED_ROWS)

    def _opened(self, stack: Stack) -> list[Track]:
        if not self._tracks:
            feeds = (Feed(self.plan.loaded, group, cached=self.plan.cached) for group in self.groups)
            self._tracks = [Track(feed, stack, self.plan.task) for feed in feeds]
        return self._tracks

    def _each(self) -> range:
        return range(len(self.groups))

    def _whole(self, number: int) -> Whole:
        return Whole(self.plan.loaded, self.groups[number], self.plan.phase)

    def _session(self, unit: Unit) -> Session:
        return Session(self.plan.loaded.model, (), [unit.narrow(self.plan.edit)])

    def _joined(self, parts: Sequence[Tensor]) -> Scores:
        """Numbers of the groups, back in the order of the cases."""
        order = torch.tensor([number for group in self.groups for number in group.numbers])
        found = torch.cat(list(parts), dim=1)
        return torch.empty_like(found).index_copy_(1, order, found)
