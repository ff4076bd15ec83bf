"""Duplicate-token heads: how much a row looks at earlier occurrences of its own token."""

from typing import ClassVar

from probe_kernels.types import Attended, Match, Want

from probe.metrics.base import MetricInfo
from probe.metrics.detector import TokenDetector
from probe.metrics.matching import same_token
from probe.seam.call import AttentionCall
from probe.shapes import RowStat


class DuplicateToken(TokenDetector):
    """Share of a head's mass on earlier occurrences of the query's token, in [0, 1]: Σ(A ⊙ P) / ΣA.

    P_ij = 1 where x_i = x_j and j < i; equal to TransformerLens's detector (`mul`). See `TokenDetector` for `norm` and
    coverage.

    Wang et al., "Interpretability in the Wild: a Circuit for Indirect Object Identification", ICLR 2023.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> back_two = torch.zeros(1, 4, 4)
    >>> back_two[0, [0, 1, 2, 3], [0, 1, 0, 1]] = 1
    >>> on_pattern(DuplicateToken(), back_two, tokens=[7, 8, 7, 8])  # two rows of four have a duplicate
    array([0.5])
    """

    info: ClassVar = MetricInfo(
        name="duplicate_token",
        summary="Share of attention on earlier occurrences of the query's own token, in [0, 1].",
        unit="share",
        better="high",
        paper="Wang et al. 2023",
        bibtex="""@inproceedings{wang2023interpretability,
  title={Interpretability in the Wild: a Circuit for Indirect Object Identification in {GPT-2} Small},
  author={Wang, Kevin Ro and Variengien, Alexandre and Conmy, Arthur and Shlegeris, Buck and Steinhardt, Jacob},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
        causal_only=True,
        needs=frozenset({"tokens"}),
    )
    with_self = False

    def target(self, call: AttentionCall) -> Match:
        """Keys with the query's token."""
        return same_token(call)

    def asks(self, call: AttentionCall) -> Want:
        """As every detector, and the mass on the query itself."""
        return super().asks(call) | Want(z=False, offsets=(0,))

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Mass on the query's token, itself left out."""
        return (attended.matches[self.own] - attended.offsets[0]).clamp_min(0.0)
