"""What an intervention may do to a model; each method is optional, found by name.

Before the first forward:

- ``require(places, heads)``: refuse what this model does not have; ``heads`` maps attention modules to head counts.
- ``prepare(loaded, prompts) -> Intervention``: learn what it needs (a reference mean, a selection of layers).

While a session is open:

- ``live() -> object``: a copy of its own for one session, where state is kept. The methods below are looked up on it.
- ``inputs(keywords, batch, phase) -> keywords``: edit what the model's forward is called with.
- ``attach(stage) -> undo``: hook modules of the model.
- ``call(call) -> AttentionCall``: edit what one layer's attention is given, before it is applied.
- ``edits(call) -> Edits``: edit blocks of scores or probabilities inside the sweep, so that z and every statistic come
  from the edited attention.
- ``attended(call, attended) -> Attended``: edit z after the sweep.

Interventions of a list apply in order: all ``inputs``, then in every layer all ``call`` edits, all edits of scores,
all edits of probabilities, all ``attended``. Hooks on modules act where their module stands in the model; on the same
module they act in the order of the list. Returning the very object that was given means: nothing was changed here.
One with an attribute ``narrow`` (true) may name edges that no row has, such as later keys under a causal mask: it
counts as having acted only when it has changed a block.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from probe_kernels.types import Attended, Edits

from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Batch, Phase, Place
from probe.seam.stage import Stage


@runtime_checkable
class Intervention(Protocol):
    """Anything with a name; what it edits is found by the methods it has (module docstring)."""

    @property
    def name(self) -> str:
        """How reports name it, parameters included."""


@runtime_checkable
class Requires(Protocol):
    """An intervention that can tell beforehand that a model does not have what it edits."""

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise a `UsageError` where the model lacks it; `heads` may be empty where nothing is known."""


@runtime_checkable
class Prepares(Protocol):
    """An intervention that learns something from the model before it is used."""

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> Intervention:
        """The same intervention, ready for use; it may run the model."""


@runtime_checkable
class Lives(Protocol):
    """An intervention that keeps state while a session lasts."""

    def live(self) -> object:
        """A fresh copy for one session."""


@runtime_checkable
class EditsInputs(Protocol):
    """An intervention that edits what the model's forward is called with."""

    def inputs(self, keywords: dict[str, Any], batch: Batch, phase: Phase) -> dict[str, Any]:
        """The keyword arguments of the outermost forward as the model shall get them."""


@runtime_checkable
class EditsModules(Protocol):
    """An intervention that hooks modules."""

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Set hooks; what is returned takes them off."""


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


def edits_pattern(one: object) -> bool:
    """Whether an intervention may change patterns, so that queries and keys as kept do not tell them."""
    return isinstance(one, EditsCall | EditsBlocks | Lives)


def edits_something(one: object) -> bool:
    """Whether an object, or the copy that it makes for a session, has any method that edits."""
    kinds = (EditsInputs, EditsModules, EditsCall, EditsBlocks, EditsAttended)
    return not isinstance(one, type) and isinstance(one, (*kinds, Lives, Prepares))
