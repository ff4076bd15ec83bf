"""Sink heads: heads that give one key more than a threshold of their mass."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probe.errors import UsageError
from probe.metrics.base import Cell, MetricInfo
from probe.metrics.key_mass import KeyMass
from probe.metrics.papers import GU_2025


class SinkHeads(KeyMass):
    """1 for heads whose mean mass on key `key` (see `key_mass`) is above `threshold`, else 0; the mean is their share.

    The further map ``mass`` holds c_j / (N - j) itself. ``share_of_heads`` counts, per layer, the heads that pass in
    each prompt by itself and averages over prompts, as the paper's Sink metric does.

    Gu et al., "When Attention Sink Emerges in Language Models", ICLR 2025 (key 0, threshold 0.3).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> to_first = torch.zeros(1, 6, 6)
    >>> to_first[:, :, 0] = 1
    >>> on_pattern(SinkHeads(), torch.cat([to_first, torch.eye(6)[None]]))
    array([1., 0.])
    """

    info: ClassVar = MetricInfo(
        name="sink_heads",
        summary="1 for heads whose mean mass on the first key is above a threshold (0.3), else 0.",
        unit="sink head",
        better="high",
        paper="Gu et al. 2025",
        bibtex=GU_2025,
    )

    def __init__(self, key: int = 0, threshold: float = 0.3) -> None:
        super().__init__(key=key, threshold=threshold)
        if not 0 < threshold < 1:
            raise UsageError(f"sink_heads: threshold was {threshold}; it is a probability between 0 and 1")
        self.threshold = threshold

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Which heads pass; NaN stays."""
        return np.where(np.isnan(values), np.nan, values > self.threshold)

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """The mass that the flags come from."""
        return {"mass": self.head(cell)}

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """How many heads pass in this prompt, of how many."""
        total, count = self.head(cell)
        known = count > 0
        passing = known & (total > self.threshold * count)
        return {"share_of_heads": (float(passing.sum()), float(torch.sum(known)))}
