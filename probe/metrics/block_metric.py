"""Metrics of what a block does to the residual stream: a number per layer and token from its input and its output."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.point_metric import LayerMetric
from probe.seam.call import Activation


class BlockMetric(LayerMetric):
    """A metric that is the mean over real tokens of a number from a block's input and output; write `change`."""

    points: ClassVar = frozenset({"resid_pre", "resid_post"})

    def __init__(self, **params: object) -> None:
        super().__init__(**params)
        self._half: dict[str, Activation] = {}  # per block, the side that came first

    def change(self, before: Activation, after: Activation) -> Float[Tensor, "batch token"]:
        """The number of each token."""
        raise MetricError(
            f"{type(self).__name__} was given a block; a BlockMetric must define change(before, after)"
        )

    def score(self, seen: Activation) -> Float[Tensor, "batch token"] | None:
        """The number of each token once both sides of a block are there."""
        other = self._half.pop(seen.place.module, None)
        if other is None or other.batch is not seen.batch or other.point == seen.point:
            self._half[seen.place.module] = seen
            return None
        before, after = (other, seen) if seen.point == "resid_post" else (seen, other)
        if before.value.shape != after.value.shape:
            raise MetricError(
                f"{self.spec} was asked; block {seen.place.module!r} turns {list(before.value.shape)} into "
                f"{list(after.value.shape)}, so that its input and output do not compare: leave the metric out"
            )
        return self.change(before, after)
