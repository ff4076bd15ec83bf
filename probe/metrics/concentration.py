"""Concentration: the Frobenius norm of a head's map."""

from typing import ClassVar, Literal

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.making import one_of
from probe.metrics.papers import XUE_2025
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class Concentration(RowMetric):
    """Frobenius norm of a head's map, ‖A‖_F = sqrt(Σ_ij p_ij²), up to sqrt(rows); mean over prompts.

    It grows with the prompt: n rows on one key each give sqrt(n), n uniform causal rows sqrt(1 + 1/2 + … + 1/n). With
    ``of="rows"``: the mean over rows of Σ_j p_ij², in (0, 1], which does not. The other one stands in `extra`. The
    paper does not say how it averages; the norm per prompt, then the mean over prompts, is our reading.

    Xue et al. 2025, Deconstructing Attention (arXiv:2510.11602).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(Concentration(), torch.eye(9)[None])
    array([3.])
    """

    info: ClassVar = MetricInfo(
        name="concentration",
        summary="Frobenius norm of a head's map, up to the root of its rows; high = each row on few keys.",
        unit="norm",
        better="high",
        paper="Xue et al. 2025",
        bibtex=XUE_2025,
    )
    need: ClassVar = Want(z=False, square=True)

    def __init__(self, of: Literal["map", "rows"] = "map") -> None:
        super().__init__(of=of)
        one_of("concentration", "of", of, ("map", "rows"))
        self.of = of

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Σp² of each row."""
        return wanted(attended.square, "square")

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Norm and weight 1 per prompt, or Σp² over rows and their number."""
        return self._norm(cell) if self.of == "map" else (cell["total"], cell["count"])

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """The one that is not the head value."""
        if self.of == "map":
            return {"row_square": (cell["total"], cell["count"])}
        return {"map_norm": self._norm(cell)}

    @staticmethod
    def _norm(cell: Cell) -> tuple[Tensor, Tensor]:
        return cell["total"].sqrt(), (cell["count"] > 0).to(torch.float64)
