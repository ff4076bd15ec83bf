"""Effective rank of a head's output: how many directions it really uses."""

from typing import ClassVar

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.moments import MomentMetric, moments
from probe.seam.call import AttentionCall

_NOISE = 1e-12  # of the largest eigenvalue: below it an eigenvalue is rounding


class EffectiveRank(MomentMetric):
    """Effective rank of a head's output over a prompt, in directions: 1 (one) to d_head (all alike).

    Z is ``[token, d_head]``, one row per real token; σ its singular values, p = σ / Σσ; the number is exp(−Σ p log p).
    σ² are the eigenvalues of ZᵀZ, which is summed row by row: no n×n matrix is made. ``centred=true`` takes the mean
    row away first. Prompts weigh as many rows as they have. A head whose output is zero has no value.

    Extra map ``participation``: (Σσ²)² / Σσ⁴, the participation ratio of the same singular values.

    Roy & Vetterli, "The effective rank: A measure of effective dimensionality", EUSIPCO 2007.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(EffectiveRank(), torch.eye(4)[None], values=torch.eye(4)[None]).round(6)
    array([4.])
    """

    info: ClassVar = MetricInfo(
        name="effective_rank",
        summary="Effective rank of a head's output over a prompt, in directions, 1 (one) to d_head (all alike).",
        unit="directions",
        better="high",
        paper="Roy & Vetterli 2007",
        bibtex="""@inproceedings{roy2007effective,
  title={The effective rank: A measure of effective dimensionality},
  author={Roy, Olivier and Vetterli, Martin},
  booktitle={European Signal Processing Conference},
  year={2007}
}""",
        needs=frozenset({"values"}),
    )
    need: ClassVar = Want(z=True)
    weigh = "z"

    def __init__(self, centred: bool = False) -> None:
        super().__init__(centred=centred)
        self.centred = centred

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the outputs of real rows."""
        self.fold(call, {"z": (wanted(attended.z, "z"), call.query_real)})

    def value(self, cell: Cell) -> Tensor:
        """Effective rank of each head."""
        spectrum = self._spectrum(cell)
        cell["participation"] = participation(spectrum)
        return effective_rank(spectrum)

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """The participation ratio, pooled as the effective rank."""
        _, weight = self.head(cell)
        return {"participation": (cell["participation"].nan_to_num(0.0) * weight, weight)}

    def _spectrum(self, cell: Cell) -> Float[Tensor, "head d"]:
        _, mean, square = moments(cell, "z")
        if self.centred:
            square = square - mean[:, :, None] * mean[:, None, :]
        return spectrum(square)


def spectrum(square: Float[Tensor, "head d d"]) -> Float[Tensor, "head d"]:
    """Eigenvalues σ² of ZᵀZ (or of a multiple), ascending; those that are rounding are 0.

    Rounding is measured against the trace, so that what little centring leaves of equal rows counts as nothing.
    """
    values = torch.linalg.eigvalsh(square)
    floor = _NOISE * square.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).abs()
    return torch.where(values > floor, values, 0.0)


def effective_rank(values: Float[Tensor, "head d"]) -> Float[Tensor, "head"]:
    """Exponential of the entropy of singular values √`values`, normalised to sum 1; NaN where all are 0."""
    sigma = values.sqrt()
    share = sigma / sigma.sum(-1, keepdim=True)
    return torch.exp(-torch.special.xlogy(share, share).sum(-1))


def participation(values: Float[Tensor, "head d"]) -> Float[Tensor, "head"]:
    """(Σ `values`)² / Σ `values`²; NaN where all are 0."""
    return values.sum(-1).square() / values.square().sum(-1)
