"""Collapsed and overloaded heads: entropy stuck near zero, or near its maximum."""

from typing import ClassVar

import numpy as np
import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import UsageError
from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.entropy import Entropy
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class EntropyState(RowMetric):
    """State of a head by its entropy: -1 collapsed, +1 overloaded, else 0.

    With E = mean over rows of H_i / log(visible keys) (rows that see one key left out, a learned sink counted as one
    more outcome): collapsed if E <= `collapse`, overloaded if E >= `overload`. `extra` holds ``share_of_maximum`` = E
    of each head, and of each layer ``layer_share_of_maximum`` and ``layer_entropy``, the mean of H_i in nats over the
    same rows of all its heads.

    Jha and Reagen 2025, Entropy-Guided Attention for Private LLMs (arXiv:2501.03489): overload in early layers;
    collapse after Zhai et al. 2023 (arXiv:2303.06296). Neither fixes a threshold: 0.75 of the maximum and 0.05 are
    ours to choose.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(EntropyState(), torch.stack([torch.eye(5), torch.ones(5, 5)]))
    array([-1.,  1.])
    """

    info: ClassVar = MetricInfo(
        name="entropy_state",
        summary="State of a head by entropy over its maximum: -1 collapsed, +1 overloaded, else 0.",
        unit="state",
        better="high",
        paper="Jha and Reagen 2025",
        bibtex="""@misc{jha2025entropy,
  title={Entropy-Guided Attention for Private LLMs},
  author={Jha, Nandan Kumar and Reagen, Brandon},
  year={2025},
  eprint={2501.03489},
  archivePrefix={arXiv}
}""",
    )

    def __init__(self, collapse: float = 0.05, overload: float = 0.75) -> None:
        super().__init__(collapse=collapse, overload=overload)
        if not 0.0 <= collapse < overload <= 1.0:
            raise UsageError(
                f"entropy_state: collapse was {collapse} and overload {overload}; allowed is "
                "0 <= collapse < overload <= 1"
            )
        self.collapse, self.overload = collapse, overload
        self._entropy = Entropy(normalized=True)

    def asks(self, call: AttentionCall) -> Want:
        """Entropy and visible keys."""
        return self._entropy.asks(call)

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Real rows that see more than one key."""
        return self._entropy.rows(call, attended)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Entropy of each row over its maximum."""
        return self._entropy.score(call, attended)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add the shares of the rows that count, and their entropy in nats."""
        super().take(call, attended)
        nats = wanted(attended.entropy, "entropy").masked_fill(~self.rows(call, attended)[:, None], 0.0)
        totals = self.finite(nats.cpu().sum(-1, dtype=torch.float64), call)
        for row, total in enumerate(totals):
            cell = self.cell(call, row)
            cell["nats"] = cell.get("nats", 0.0) + total

    def finish(self, values: np.ndarray) -> np.ndarray:
        """The state of every head."""
        state = (values >= self.overload).astype(np.float64) - (values <= self.collapse)
        return np.where(np.isfinite(values), state, np.nan)

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """Entropy over its maximum, per head."""
        return {"share_of_maximum": (cell["total"], cell["count"])}

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """Entropy over its maximum and entropy in nats, per layer."""
        weight = float(cell["count"].sum())
        return {
            "layer_share_of_maximum": (float(cell["total"].sum()), weight),
            "layer_entropy": (float(cell["nats"].sum()), weight),
        }
