"""Residual peak: how much larger the residual stream of the sink token is than that of the others."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo
from probe.metrics.extreme import Over, against_others
from probe.metrics.making import one_of
from probe.metrics.papers import GUO_2024
from probe.metrics.token_point import TokenPointMetric
from probe.seam.call import Activation


class ResidualPeak(TokenPointMetric):
    """Norm of the first token's residual stream over the mean norm of the others', per layer, 0 or more: a ratio.

    ‖x_0‖ / mean_{j≠0} ‖x_j‖ at the layer's input (``point="resid_pre"``) or output; ``over="max"`` divides by the
    largest of the others. With `span` token 0 is replaced by the first token of a named span, such as the first
    delimiter. Token map: ‖x_j‖. Undefined for prompts of one token, and where the span is empty.

    Guo et al., "Active-Dormant Attention Heads", 2024.

    >>> from probe.testing import feed, samples
    >>> from probe.metrics import answers
    >>> answers(feed(ResidualPeak(), samples((9,))))[0].head_map.dims
    ('layer',)
    """

    info: ClassVar = MetricInfo(
        name="residual_peak",
        summary="Norm of the first token's residual stream over the mean of the others', 0 or more.",
        unit="ratio",
        better="high",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
        per_token=True,
        axis="layer",
    )
    points: ClassVar = frozenset({"resid_pre", "resid_post"})

    def __init__(
        self, point: Literal["resid_pre", "resid_post"] = "resid_pre", over: Over = "mean", span: str = ""
    ) -> None:
        super().__init__(point=point, over=over, span=span)
        one_of("residual_peak", "point", point, ("resid_pre", "resid_post"))
        one_of("residual_peak", "over", over, ("mean", "max"))
        self.at_point, self.over, self.span = point, over, span

    def see(self, seen: Activation) -> None:
        """Fold one side of the block only."""
        if seen.point == self.at_point:
            super().see(seen)

    def score(self, seen: Activation) -> Float[Tensor, "batch token"]:
        """‖x_j‖."""
        norm: Tensor = torch.linalg.vector_norm(seen.value.float(), dim=-1)
        return norm

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The ratio of a prompt; weight 1, or 0 where it is undefined."""
        return against_others(self.token(cell), cell, self.over)
