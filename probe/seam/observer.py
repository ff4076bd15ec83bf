"""Who looks through the seam: anything that wants statistics of calls, or activations, or both."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from probe_kernels.types import Attended, Want
from torch import nn

from probe.seam.call import Activation, AttentionCall, Point


@runtime_checkable
class Observer(Protocol):
    """Sees every attention call with its statistics. Metrics are observers."""

    def want(self, call: AttentionCall) -> Want:
        """The statistics it needs of this call."""

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Take one call's statistics."""


@runtime_checkable
class PointObserver(Protocol):
    """Sees activations at `points` other than attention."""

    @property
    def points(self) -> frozenset[Point]:
        """The points it needs."""

    def activation(self, seen: Activation) -> None:
        """Take one activation."""


@runtime_checkable
class ModelObserver(Protocol):
    """Looks at the model itself as well, for instance at its weights."""

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Told the model when its attention is switched; what is returned is called when it is restored."""
