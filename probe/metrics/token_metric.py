"""Metrics with one number per head and token: token maps that grow with the prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from probe_kernels.types import Attended
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, FoldMetric
from probe.seam.call import AttentionCall


@dataclass(frozen=True)
class TokenSums:
    """One call's share of a token map: what to add, to which tokens, and what it weighs."""

    total: Float[Tensor, "batch head token"]
    weight: Float[Tensor, "batch token"] | Int[Tensor, "batch token"] | Bool[Tensor, "batch token"]
    index: Int[Tensor, "batch token"]  # among the real tokens of the prompt; -1 = padding, left out


class TokenMetric(FoldMetric):
    """A metric with one number per head and token, summed over calls by the token's own index; write `tokens`.

    Token map = Σ totals / Σ weights. Head value = mean of the token map, tokens without weight left out, all prompts
    pooled; override `head` for another summary.
    """

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """This call's share."""
        raise MetricError(
            f"{type(self).__name__} was given a call; a TokenMetric must define tokens(call, attended)"
        )

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add this call's share to each prompt's cell, token by token."""
        share = self.tokens(call, attended)
        index, weight = share.index.cpu(), share.weight.cpu().double()
        real = index >= 0
        totals = self.finite(share.total.masked_fill(~real[:, None].to(share.total.device), 0.0), call)
        for row in range(len(totals)):
            cell, at = self.cell(call, row), index[row][real[row]]
            grow(cell, totals.shape[1], int(at.max()) + 1 if at.numel() else 0)
            cell["token_total"].index_add_(1, at, totals[row][:, real[row]])
            cell["token_weight"].index_add_(0, at, weight[row][real[row]])

    def token(self, cell: Cell) -> Float[Tensor, "head token"]:
        """``token_total / token_weight``; NaN for tokens without weight."""
        weight = cell["token_weight"]
        return torch.where(weight > 0, cell["token_total"] / weight.clamp_min(1e-300), torch.nan)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Sum over tokens of the token map, and how many tokens have a value."""
        values = self.token(cell)
        return values.nansum(-1), (~values.isnan()).sum(-1).to(torch.float64)


def grow(cell: Cell, heads: int, length: int) -> None:
    """Make room for `length` tokens in a cell of token sums; new tokens start at zero."""
    have = cell["token_weight"].shape[0] if "token_weight" in cell else 0
    if have == 0:
        cell["token_total"] = torch.zeros(heads, 0, dtype=torch.float64)
        cell["token_weight"] = torch.zeros(0, dtype=torch.float64)
    if length > have:
        cell["token_total"] = torch.nn.functional.pad(cell["token_total"], (0, length - have))
        cell["token_weight"] = torch.nn.functional.pad(cell["token_weight"], (0, length - have))
