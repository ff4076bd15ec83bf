"""Which heads look near and which look far, compared with all others."""

from typing import ClassVar

import numpy as np
from probe_kernels.types import Attended, Want

from probe.errors import UsageError
from probe.metrics.base import MetricInfo, wanted
from probe.metrics.papers import LI_2025
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

_SLACK = 1e-9  # so that 0.3 of 10 heads is 3


class LocalGlobal(RowMetric):
    """Group of a head: -1 local, +1 global, 0 neither; the lowest and highest `fraction` of mean attended distance.

    Heads of all decoder self-attention layers compete together. With k = floor(fraction · heads): local where fewer
    than k heads have a smaller distance, global where fewer than k have a larger one, 0 where both hold (ties).

    Li et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm", 2025 (30 %).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> near, far = torch.eye(5), torch.zeros(5, 5)
    >>> far[:, 0] = 1
    >>> on_pattern(LocalGlobal(), torch.stack([near, far, torch.ones(5, 5), torch.ones(5, 5)]))
    array([-1.,  1.,  0.,  0.])
    """

    info: ClassVar = MetricInfo(
        name="local_global",
        summary="Group of a head by mean attended distance: -1 (lowest 30 %), +1 (highest 30 %) or 0.",
        unit="group",
        better="high",
        paper="Li et al. 2025",
        bibtex=LI_2025,
        causal_only=True,
    )
    need: ClassVar = Want(z=False, distance=True)

    def __init__(self, fraction: float = 0.3) -> None:
        super().__init__(fraction=fraction)
        if not 0.0 < fraction <= 0.5:
            raise UsageError(f"local_global: fraction was {fraction}; allowed is more than 0, at most 0.5")
        self.fraction = fraction

    def applies(self, call: AttentionCall) -> str | None:
        """Only the decoder's self-attention is grouped."""
        other = (
            None if call.place.tower == "decoder" else "heads are grouped within decoder self-attention only"
        )
        return super().applies(call) or other

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Distance of each row."""
        return wanted(attended.distance, "distance")

    def finish(self, values: np.ndarray) -> np.ndarray:
        """The group of every head among all heads of the tower."""
        known = np.sort(values[np.isfinite(values)])
        k = int(np.floor(self.fraction * len(known) + _SLACK))
        smaller = np.searchsorted(known, values, side="left")
        larger = len(known) - np.searchsorted(known, values, side="right")
        group = (larger < k).astype(np.float64) - (smaller < k)
        return np.where(np.isfinite(values), group, np.nan)
