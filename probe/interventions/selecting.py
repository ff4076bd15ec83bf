"""Patterns of the kernels inside an intervention: what they keep of a call, asked once and told tile by tile."""

from dataclasses import dataclass

from jaxtyping import Bool
from probe_kernels.select import Pattern, Selection, Site
from probe_kernels.types import Layout
from torch import Tensor

from probe.errors import UsageError
from probe.seam.call import AttentionCall
from probe.seam.numbered import numbered


@dataclass(frozen=True)
class Chosen:
    """What a pattern keeps of one call."""

    selection: Selection
    layout: Layout
    n_key: int

    def visible(self, rows: slice, keys: slice) -> Bool[Tensor, "batch head_or_1 rows keys"]:
        """What it keeps of a tile, in storage order."""
        return self.selection.visible(self.layout, rows, keys, self.n_key)


class Selecting:
    """The patterns of one session: what they chose in earlier layers of a forward is at hand in its later ones."""

    def __init__(self) -> None:
        self._forward: tuple[object, ...] = ()
        self._memories: dict[str, dict[str, object]] = {}

    def of(self, pattern: Pattern, call: AttentionCall) -> Chosen:
        """What a pattern keeps of a call; raises `UsageError` where the call does not suit it."""
        layout = numbered(call)
        return Chosen(self.select(pattern, call, layout), layout, call.size[2])

    def select(self, pattern: Pattern, call: AttentionCall, layout: Layout) -> Selection:
        """The selection of a pattern, the call's layout in real tokens given; raises `UsageError` as `of`."""
        forward = (call.batch.prompts, call.batch.step, call.place.tower)
        if forward != self._forward:
            self._forward, self._memories = forward, {}
        memory = self._memories.setdefault(pattern.name, {})
        if call.scores is None:
            raise UsageError(
                f"{pattern.name} was asked; {call.place.module} gave no queries and keys to select from"
            )
        try:
            return pattern.select(call.scores, layout, Site(call.place.layer, memory))
        except ValueError as error:
            raise UsageError(
                f"{pattern.name} was asked; it cannot be applied to {call.place.module}: {error}"
            ) from error
