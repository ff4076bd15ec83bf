"""Confidence: how much of a row its strongest key takes."""

from typing import ClassVar

from probe_kernels.types import Attended, Want

from probe.metrics.base import MetricInfo, wanted
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class MaxProb(RowMetric):
    """Mean largest probability of a row, in [0, 1]: max_j p_ij. A learned sink is no key and does not compete.

    Voita et al., "Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting", ACL 2019 (confidence).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(MaxProb(), torch.eye(4)[None])
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="max_prob",
        summary="Mean largest probability of a row, in [0, 1].",
        unit="probability",
        better="high",
        paper="Voita et al. 2019",
        bibtex="""@inproceedings{voita2019analyzing,
  title={Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can Be Pruned},
  author={Voita, Elena and Talbot, David and Moiseev, Fedor and Sennrich, Rico and Titov, Ivan},
  booktitle={Proceedings of the 57th Annual Meeting of the Association for Computational Linguistics},
  year={2019}
}""",
    )
    need: ClassVar = Want(z=False, top=True)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Largest probability of each row."""
        return wanted(attended.top_p, "top")
