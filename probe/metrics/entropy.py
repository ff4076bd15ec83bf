"""Entropy of a head's rows: how widely it looks."""

from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import MetricInfo, wanted
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class Entropy(RowMetric):
    """Mean entropy of a row in nats, in [0, log(visible keys)]; divided by its maximum (range [0, 1]) if `normalized`.

    H_i = -Σ_j p_ij log p_ij. A learned sink counts as one more outcome, in the entropy and in its maximum.
    Normalised, rows that see one key do not count: their maximum is 0.

    Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse", ICML 2023.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(Entropy(normalized=True), torch.ones(1, 6, 6)).round(4)  # looks at all keys alike
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="entropy",
        summary="Mean entropy of a query row in nats, 0 (one key) to log of visible keys (all keys alike).",
        unit="nats",
        better="high",
        paper="Zhai et al. 2023",
        bibtex="""@inproceedings{zhai2023stabilizing,
  title={Stabilizing Transformer Training by Preventing Attention Entropy Collapse},
  author={Zhai, Shuangfei and Likhomanenko, Tatiana and Littwin, Etai and Busbridge, Dan and Ramapuram, Jason and
          Zhang, Yizhe and Gu, Jiatao and Susskind, Joshua M.},
  booktitle={International Conference on Machine Learning},
  year={2023}
}""",
    )

    def __init__(self, normalized: bool = False) -> None:
        super().__init__(normalized=normalized)
        self.normalized = normalized

    def asks(self, call: AttentionCall) -> Want:
        """Entropy, and visible keys where it is divided by its maximum."""
        return Want(z=False, entropy=True, visible=self.normalized)

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Real rows; normalised, only those that see more than one key."""
        if not self.normalized:
            return call.query_real
        return call.query_real & (wanted(attended.visible, "visible") > 1)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Entropy of each row."""
        entropy = wanted(attended.entropy, "entropy")
        if not self.normalized:
            return entropy
        outcomes = wanted(attended.visible, "visible").float() + (0 if attended.sink_mass is None else 1)
        return entropy / torch.log(outcomes.clamp_min(2.0))[:, None]
