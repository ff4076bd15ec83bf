"""Local focus: how much of a head's attention lies on one sub-diagonal."""

from typing import ClassVar

from jaxtyping import Bool
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo
from probe.metrics.making import at_least
from probe.metrics.papers import XUE_2025
from probe.metrics.row_metric import RowMetric
from probe.metrics.rows import index_in_segment
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

OFFSETS = (0, 1, 2, 3)  # those of the paper


class LocalFocus(RowMetric):
    """Mean probability on the token `offset` before the query (0 = itself), in [0, 1]: the mean of that sub-diagonal.

    LocFoc_N = mean over i >= N of p_{i,i-N}; `extra` has all of N = 0…3 as ``offset_0`` …. Keys that a window hides
    count as 0.

    Xue et al. 2025, Deconstructing Attention (arXiv:2510.11602).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(LocalFocus(offset=1), torch.ones(1, 3, 3)).round(4)  # mean of 1/2 and 1/3
    array([0.4167])
    """

    info: ClassVar = MetricInfo(
        name="local_focus",
        summary="Mean probability on the token `offset` before the query (0 = itself), in [0, 1].",
        unit="probability",
        better="high",
        paper="Xue et al. 2025",
        bibtex=XUE_2025,
        causal_only=True,
        needs=frozenset({"positions"}),
    )

    def __init__(self, offset: int = 0) -> None:
        super().__init__(offset=offset)
        at_least("local_focus", "offset", offset, 0)
        self.offset = offset
        self._every = tuple(dict.fromkeys((offset, *OFFSETS)))

    def asks(self, call: AttentionCall) -> Want:
        """Mass at every offset."""
        return Want(z=False, offsets=self._every)

    def rows(self, call: AttentionCall, attended: Attended) -> Bool[Tensor, "batch query_pos"]:
        """Real queries with a token so far before them in their own sequence."""
        return index_in_segment(call) >= self.offset

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Mass of each row at the offset."""
        return attended.offsets[self.offset]

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add the rows of every offset."""
        super().take(call, attended)
        index = index_in_segment(call)
        for offset in OFFSETS:
            inside = index >= offset
            total = attended.offsets[offset].masked_fill(~inside[:, None], 0.0)
            totals = self.finite(total.cpu().double().sum(-1), call)
            for row in range(len(totals)):
                cell, rows = self.cell(call, row), inside[row].sum().cpu().double().expand(totals.shape[1])
                cell[f"total_{offset}"] = cell.get(f"total_{offset}", 0.0) + totals[row]
                cell[f"count_{offset}"] = cell.get(f"count_{offset}", 0.0) + rows

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """The mean of every sub-diagonal of the paper."""
        return {f"offset_{n}": (cell[f"total_{n}"], cell[f"count_{n}"]) for n in OFFSETS}
