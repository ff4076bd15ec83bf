"""Span mass: how much of the rows after a named span goes to it."""

from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import MetricInfo
from probe.metrics.in_span import InSpan
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class SpanMass(RowMetric):
    """Mean probability on the keys of the prompt's span `span`, in [0, 1], over the rows after its last token.

    M_i = Σ_{j in span} p_ij. A span that holds no token of the prompt, or that no row follows, is undefined (null).

    Clark et al., "What Does BERT Look At? An Analysis of BERT's Attention", BlackboxNLP 2019.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> spans = {"name": [True, True, False, False]}
    >>> on_pattern(SpanMass("name"), torch.ones(1, 4, 4), spans=spans).round(4)  # mean of 2/3 and 2/4
    array([0.5833])
    """

    info: ClassVar = MetricInfo(
        name="span_mass",
        summary="Mean probability on the tokens of a named span, in [0, 1], over the rows after it.",
        unit="probability",
        better="high",
        paper="Clark et al. 2019",
        bibtex="""@inproceedings{clark2019does,
  title={What Does {BERT} Look At? An Analysis of {BERT}'s Attention},
  author={Clark, Kevin and Khandelwal, Urvashi and Levy, Omer and Manning, Christopher D.},
  booktitle={Proceedings of the 2019 ACL Workshop BlackboxNLP: Analyzing and Interpreting Neural Networks for NLP},
  year={2019}
}""",
        needs=frozenset({"tokens"}),
    )

    def __init__(self, span: str) -> None:
        super().__init__(span=span)
        self.span = span
        self._inside = InSpan(span)

    def applies(self, call: AttentionCall) -> str | None:
        """Only where the spans of the sequences are known."""
        return super().applies(call) or self._inside.reason(call)

    def asks(self, call: AttentionCall) -> Want:
        """Mass on the span's keys."""
        groups = torch.where(self._inside.keys(call), 0, -1).to(torch.int16)
        return Want(z=False, key_groups={self.own: groups})

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Real rows after the last token of the span; none where the span is empty."""
        inside = self._inside.tokens(call)
        last = torch.where(inside, torch.arange(inside.shape[1]), -1).amax(-1, keepdim=True)
        index = call.query_index
        return call.query_real & ((index.cpu() > last) & (last >= 0)).to(index.device)

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Mass of each row on the span."""
        groups = attended.key_groups[self.own]
        return groups[..., 0] if groups.shape[-1] else groups.new_zeros(groups.shape[:-1])
