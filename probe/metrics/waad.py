"""Windowed average attention distance: whether a token's query looks near or far, up to a window."""

from typing import ClassVar

from probe_kernels.types import Attended, Want

from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.metrics.papers import LI_2025
from probe.metrics.rows import mass_want, row_mass
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall


class Waad(TokenMetric):
    """Mean distance a query looks back, each distance cut at `window` W, in tokens, in [0, W].

    Token map, per query: D_i = Σ_j p_ij min(i - j, W) = W m_i - Σ_{o<W} (W - o) p_{i,i-o}, with m_i = Σ_j p_ij (1, less
    a learned sink). Head: mean over tokens. The paper averages over its local heads; here every head has its own.

    Li et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm", 2025 (WAAD, W = 10).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(Waad(window=2), torch.eye(4)[None])  # every token looks at itself
    array([0.])
    """

    info: ClassVar = MetricInfo(
        name="waad",
        summary="Mean distance a query looks back, each distance cut at the window, in tokens, 0 to window.",
        unit="tokens",
        better="high",
        paper="Li et al. 2025",
        bibtex=LI_2025,
        causal_only=True,
        per_token=True,
    )

    def __init__(self, window: int = 10) -> None:
        super().__init__(window=window)
        at_least("waad", "window", window, 1)
        self.window = window

    def asks(self, call: AttentionCall) -> Want:
        """The window's diagonals and the mass of each row."""
        return Want(z=False, offsets=tuple(range(self.window))) | mass_want(call)

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Clipped distance of each query of this call."""
        distance = self.window * row_mass(call, attended)
        for offset in range(self.window):
            distance = distance - (self.window - offset) * attended.offsets[offset]
        return TokenSums(distance.clamp_min(0.0), call.query_real, call.query_index)
