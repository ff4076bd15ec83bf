"""Previous-token heads: how much a row looks at the token right before it."""

from typing import ClassVar

from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import MetricInfo
from probe.metrics.row_metric import RowMetric
from probe.metrics.rows import has_previous
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class PreviousToken(RowMetric):
    """Mean probability on the token right before the query, in [0, 1], over rows that have one: p_{i,i-1}, i >= 1.

    TransformerLens's `mul` score counts row 0 as well, so it is (n - 1)/n of this where rows sum to 1.

    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(PreviousToken(), torch.eye(4)[[0, 0, 1, 2]][None])
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="previous_token",
        summary="Mean probability on the token right before the query, in [0, 1].",
        unit="probability",
        better="high",
        paper="Elhage et al. 2021",
        bibtex="""@article{elhage2021mathematical,
  title={A Mathematical Framework for Transformer Circuits},
  author={Elhage, Nelson and Nanda, Neel and Olsson, Catherine and Henighan, Tom and Joseph, Nicholas and
          Mann, Ben and others},
  journal={Transformer Circuits Thread},
  year={2021}
}""",
        needs=frozenset({"positions"}),
    )
    need: ClassVar = Want(z=False, offsets=(1,))

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Real rows with a token before them in their own sequence."""
        return has_previous(call)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Mass on the previous token."""
        return attended.offsets[1]
