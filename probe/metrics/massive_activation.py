"""Massive activations: how far single dimensions of a token's residual stream stick out; they tell sink tokens."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import MetricError, UsageError
from probe.interventions.sink_tokens import ratios
from probe.metrics.base import Cell, MetricInfo
from probe.metrics.papers import SUN_2024
from probe.metrics.token_point import TokenPointMetric
from probe.seam.call import Activation


class MassiveActivation(TokenPointMetric):
    """Largest φ of a layer's tokens, where φ(x) = max_{d in dims} |x_d| / RMS(x) at the layer's input; 0 to √d_model.

    RMS is over all dimensions, 1e-6 under the root. Without `dims` every dimension counts (the experiment
    `sink_tokens` finds a model's own). Token map: φ. ``sink_tokens``: how many tokens of a prompt have φ >= `tau`
    (Kang et al. 2025; the authors' code asks φ > tau).

    Sun et al., "Massive Activations in Large Language Models", COLM 2024.

    >>> from probe.testing import feed, samples
    >>> from probe.metrics import answers
    >>> found = answers(feed(MassiveActivation(), samples((9,))))[0].head_map
    >>> bool((found <= 6**0.5).all())  # six dimensions
    True
    """

    info: ClassVar = MetricInfo(
        name="massive_activation",
        summary="Largest |x_d| / RMS(x) of the residual stream over tokens and dimensions, 0 to √d_model.",
        unit="RMS",
        better="high",
        paper="Sun et al. 2024",
        bibtex=SUN_2024,
        per_token=True,
        axis="layer",
    )
    points: ClassVar = frozenset({"resid_pre"})

    def __init__(self, dims: str = "", tau: float = 20.0) -> None:
        super().__init__(dims=dims, tau=tau)
        listed = dims.split("+") if dims else []
        if not all(one.isdecimal() for one in listed) or tau <= 0:
            raise UsageError(
                f"massive_activation with dims={dims!r}, tau={tau:g} was asked; dims are dimensions counted from 0, "
                "joined by +, and tau is above 0"
            )
        self.dims, self.tau = sorted({int(one) for one in listed}), tau

    def score(self, seen: Activation) -> Float[Tensor, "batch token"]:
        """φ of each token."""
        if self.dims and max(self.dims) >= seen.value.shape[-1]:
            raise MetricError(
                f"{self.spec} was asked; {seen.place.module} has {seen.value.shape[-1]} dimensions, counted from 0"
            )
        found = ratios(seen.value)
        return (found[..., self.dims] if self.dims else found).amax(-1)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The prompt's largest φ; weight 1."""
        largest = self.token(cell).nan_to_num(0.0).amax(-1)
        return largest, torch.ones_like(largest)

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """Sink tokens of the prompt."""
        return {"sink_tokens": (float((self.token(cell) >= self.tau).sum()), 1.0)}
