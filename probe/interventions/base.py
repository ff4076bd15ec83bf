"""What an intervention may do to a forward; each method is optional, found by name.

- ``call(call) -> AttentionCall``: edit what the layer's attention is given, before it is applied.
- ``edits(call) -> Edits``: edit blocks of scores or probabilities inside the sweep, so that z and every
  statistic come from the edited attention.
- ``attended(call, attended) -> Attended``: edit z after the sweep.

Interventions of a list apply in order: all ``call`` edits, then ``edits`` inside the sweep, then
``attended``.
"""

from typing import Protocol, runtime_checkable

from probe_kernels.types import Attended, Edits

from probe.seam.call import AttentionCall


@runtime_checkable
class Intervention(Protocol):
    """Anything with a name; what it edits is found by the methods it has (module docstring)."""

    @property
    def name(self) -> str:
        """How reports name it, parameters included."""


@runtime_checkable
class EditsCall(Protocol):
    """An intervention that edits the call."""

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call as the layer shall see it."""


@runtime_checkable
class EditsBlocks(Protocol):
    """An intervention that edits blocks inside the sweep."""

    def edits(self, call: AttentionCall) -> Edits:
        """The edits for this call; an empty `Edits` where it does not apply."""


@runtime_checkable
class EditsAttended(Protocol):
    """An intervention that edits z after the sweep."""

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result as the layer shall return it."""
