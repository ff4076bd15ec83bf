"""Edges: from some queries to some keys, in some heads; what edits of them have in common."""

from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from jaxtyping import Bool
from torch import Tensor

from probe.interventions.span import SpanChoice, members
from probe.interventions.target import Target
from probe.seam.call import AttentionCall

Own = TypeVar("Own", bound="Edges")


@dataclass(frozen=True)
class Edges:
    """Edges from the target's queries to `keys`."""

    target: Target
    keys: SpanChoice
    narrow: ClassVar[bool] = True

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """The keys."""
        return (self.keys,)

    def control(self: Own, seed: int) -> Own:
        """The same edges, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def keys_in(self, call: AttentionCall) -> Bool[Tensor, "batch key_pos"] | None:
        """The keys of a call; None where none of its heads, or no key, is meant."""
        if not self.target.applies(call):
            return None
        found = members(self.keys, call, call.key_index, "keys")
        return found if bool(found.any()) else None
