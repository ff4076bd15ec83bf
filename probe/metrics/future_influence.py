"""Future attention influence: how much a token is read by queries some way ahead."""

from typing import ClassVar

from probe_kernels.types import Attended, Want

from probe.errors import UsageError
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.metrics.papers import LI_2025
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall


class FutureInfluence(TokenMetric):
    """Mean attention a token receives from queries `lo` to `hi` tokens ahead, in [0, 1].

    Token map: F_j = mean over visible real queries i with lo <= i - j <= hi of p_ij, undefined where there is none
    (the last `lo` tokens). Head: mean over tokens.

    Li et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm", 2025 (FAI, horizon 10 to 100).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(FutureInfluence(lo=1, hi=1), torch.eye(4)[[0, 0, 1, 2]][None])  # read by the next token
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="future_influence",
        summary="Mean attention a token receives from queries lo to hi tokens ahead, in [0, 1].",
        unit="probability",
        better="high",
        paper="Li et al. 2025",
        bibtex=LI_2025,
        causal_only=True,
        per_token=True,
    )

    def __init__(self, lo: int = 10, hi: int = 100) -> None:
        super().__init__(lo=lo, hi=hi)
        at_least("future_influence", "lo", lo, 0)
        if hi < lo:
            raise UsageError(f"future_influence: hi was {hi}; allowed is lo ({lo}) or more")
        self.band = (lo, hi)

    def asks(self, call: AttentionCall) -> Want:
        """Column mass from the band of queries."""
        return Want(z=False, bands=(self.band,))

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Column mass from the band, and how many queries of the band see each key."""
        total, seen_by = attended.bands[self.band], attended.band_seen_by[self.band]
        return TokenSums(total, seen_by.expand(len(total), -1), call.key_index)
