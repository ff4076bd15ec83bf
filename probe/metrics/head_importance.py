"""Head importance: how much of its output a head has, in absolute values."""

from typing import ClassVar

from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import MetricInfo, wanted
from probe.metrics.papers import WANG_2021
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class HeadImportance(RowMetric):
    """Mean over rows of the sum of a head's absolute outputs, Σ_c |z_ic|, 0 or more, in units of the activations.

    SpAtten's head importance is the sum over rows and layers; divided by rows here, so that prompts of different
    lengths compare: within a prompt the ranking is the same. Sum over layers for what it accumulates:
    ``report["head_importance"].cumsum("layer")``.

    Wang et al. 2021, SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning
    (arXiv:2012.09852).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(HeadImportance(), torch.ones(1, 3, 3), values=torch.tensor([[[3.0, -4.0]] * 3])).round(4)
    array([7.])
    """

    info: ClassVar = MetricInfo(
        name="head_importance",
        summary="Sum of a head's absolute outputs, 0 or more, in units of the activations, mean over rows.",
        unit="activation",
        better="high",
        paper="Wang et al. 2021",
        bibtex=WANG_2021,
        needs=frozenset({"values"}),
    )
    need: ClassVar = Want(z=True)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Σ|z| of each row."""
        total: Tensor = wanted(attended.z, "z").float().abs().sum(-1)
        return total
