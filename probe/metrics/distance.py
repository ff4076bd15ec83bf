"""Mean distance between a query and the keys it attends to."""

from typing import ClassVar

from probe_kernels.types import Attended, Want

from probe.metrics.base import MetricInfo, wanted
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class Distance(RowMetric):
    """Mean attended distance in tokens, 0 or more: D_i = Σ_j p_ij |i - j|.

    Mass on a learned sink counts as distance 0. Attention sinks at the first token count with their full distance.

    Vig and Belinkov, "Analyzing the Structure of Attention in a Transformer Language Model", BlackboxNLP 2019.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> to_first = torch.zeros(1, 5, 5)
    >>> to_first[:, :, 0] = 1
    >>> on_pattern(Distance(), to_first)  # mean of 0, 1, 2, 3, 4
    array([2.])
    """

    info: ClassVar = MetricInfo(
        name="distance",
        summary="Mean distance between a query and the keys it attends to, in tokens, 0 or more.",
        unit="tokens",
        better="high",
        paper="Vig and Belinkov 2019",
        bibtex="""@inproceedings{vig2019analyzing,
  title={Analyzing the Structure of Attention in a Transformer Language Model},
  author={Vig, Jesse and Belinkov, Yonatan},
  booktitle={Proceedings of the 2019 ACL Workshop BlackboxNLP: Analyzing and Interpreting Neural Networks for NLP},
  year={2019}
}""",
        needs=frozenset({"positions"}),
    )
    need: ClassVar = Want(z=False, distance=True)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Distance of each row."""
        return wanted(attended.distance, "distance")
