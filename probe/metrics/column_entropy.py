"""Column entropy: how evenly the queries that see a key share in attending to it."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.making import at_least
from probe.metrics.papers import GUO_2024
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall


class ColumnEntropy(TokenMetric):
    """Largest normalised entropy of a head's columns, in [0, 1]: near 1 where some key is attended by all alike.

    Token map: E_j = -Σ_i r_ij log r_ij / log(N - j), with r_ij = p_ij / Σ_i p_ij and N - j the queries that see key j.
    Head: the largest E_j of a prompt, averaged over prompts. A key that few queries see reaches 1 easily; those that
    fewer than `least` see do not count (2 as in the authors' code; 1 has no entropy).

    Streaming: E_j log(N - j) = log c_j - (Σ_i p_ij log p_ij) / c_j with c_j = Σ_i p_ij, both summed block by block.
    Every block is looked at, which keeps the sweep from its quickest path, so ``--metric all`` leaves it out.

    Guo et al., "Active-Dormant Attention Heads", 2024 (half of the dormancy test).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> to_first = torch.zeros(1, 6, 6)
    >>> to_first[:, :, 0] = 1
    >>> on_pattern(ColumnEntropy(), torch.cat([to_first, torch.eye(6)[None]])).round(4)
    array([1., 0.])
    """

    info: ClassVar = MetricInfo(
        name="column_entropy",
        summary="Largest normalised entropy over queries of the attention a key receives, in [0, 1].",
        unit="share of log queries",
        better="high",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
        per_token=True,
        slow=True,
    )

    def __init__(self, least: int = 2) -> None:
        super().__init__(least=least)
        at_least("column_entropy", "least", least, 2)
        self.least = least
        self._sums: dict[str, Tensor] = {}

    def asks(self, call: AttentionCall) -> Want:
        """Column mass, and Σ p log p of each column, gathered from the blocks."""
        batch, _, n_key = call.size
        sums = torch.zeros(batch, call.n_heads, n_key, dtype=torch.float64, device=call.query_real.device)
        self._sums[call.place.module] = sums
        return Want(z=False, column=True, rows={self.own: _gather(sums, call.query_real)})

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Column mass and how many real queries see each key."""
        column, seen_by = wanted(attended.column, "column"), wanted(attended.seen_by, "column")
        return TokenSums(column, seen_by.expand(len(column), -1), call.key_index)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add this call's sums to each prompt's cell."""
        super().take(call, attended)
        sums = self.finite(self._sums.pop(call.place.module), call)
        for row, index in enumerate(call.key_index.cpu()):
            cell, real = self.cell(call, row), index >= 0
            have = cell.get("plogp", torch.zeros(sums.shape[1], 0, dtype=torch.float64))
            room = cell["token_total"].shape[1] - have.shape[1]
            cell["plogp"] = torch.nn.functional.pad(have, (0, room))
            cell["plogp"].index_add_(1, index[real], sums[row][:, real])

    def token(self, cell: Cell) -> Float[Tensor, "head token"]:
        """E_j; NaN for keys that fewer than `least` queries see, 0 where none gives any mass."""
        mass, seen = cell["token_total"], cell["token_weight"]
        some = mass.clamp_min(1e-300)
        entropy = torch.where(mass > 0, some.log() - cell["plogp"] / some, 0.0).clamp_min(0.0)
        share = entropy / seen.clamp_min(2).log()
        return share.clamp_max(1.0).masked_fill(seen < self.least, torch.nan)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The largest of a prompt; weight 1, or 0 where no key counts."""
        values = self.token(cell)
        known = ~values.isnan().all(-1)
        largest = values.nan_to_num(-1.0).amax(-1) if values.shape[1] else values.new_zeros(len(values))
        return torch.where(known, largest, 0.0), known.to(torch.float64)


def _gather(sums: Tensor, real: Tensor) -> Callable[[Tensor, slice, slice], Tensor]:
    """Adds Σ_i p log p over the real rows of each block to `sums`; what a block answers itself is empty."""

    def block(p: Float[Tensor, "batch head rows keys"], rows: slice, keys: slice) -> Tensor:
        spread = torch.special.xlogy(p, p).masked_fill(~real[:, None, rows, None], 0.0)
        sums[:, :, keys] += spread.sum(2)
        return p[..., :0]

    return block
