"""Sink mass: how much of a row goes to the first keys it can see."""

from typing import ClassVar

from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import MetricInfo, wanted
from probe.metrics.making import at_least
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class Sink(RowMetric):
    """Mean probability on the first `n` visible keys, in [0, 1]; rows that see `n` keys or fewer do not count.

    S_i = Σ_{j in first n visible keys of i} p_ij. A model's learned sink logit is no key and is not counted.

    Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> to_first = torch.zeros(1, 6, 6)
    >>> to_first[:, :, 0] = 1
    >>> on_pattern(Sink(), to_first)
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="sink",
        summary="Mean probability on the first n visible keys, in [0, 1], over rows that see more than n.",
        unit="probability",
        better="high",
        paper="Xiao et al. 2024",
        bibtex="""@inproceedings{xiao2024efficient,
  title={Efficient Streaming Language Models with Attention Sinks},
  author={Xiao, Guangxuan and Tian, Yuandong and Chen, Beidi and Han, Song and Lewis, Mike},
  booktitle={International Conference on Learning Representations},
  year={2024}
}""",
    )

    def __init__(self, n: int = 1) -> None:
        super().__init__(n=n)
        at_least("sink", "n", n, 1)
        self.n = n

    def asks(self, call: AttentionCall) -> Want:
        """Mass on the first n visible keys."""
        return Want(z=False, first=(self.n,), visible=True)

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Real rows that see more than n keys."""
        return call.query_real & (wanted(attended.visible, "visible") > self.n)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Mass of each row on its first n visible keys."""
        return attended.first[self.n]
