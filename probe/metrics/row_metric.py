"""Metrics with one number per query row: the shortest kind to write."""

import torch
from jaxtyping import Bool, Float
from probe_kernels.types import Attended
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import FoldMetric
from probe.seam.call import AttentionCall


class RowMetric(FoldMetric):
    """A metric that is the mean, over real query rows, of one number per row; write `score` and it is done.

    Rows that `rows` excludes do not count; prompts are pooled row by row.
    """

    def score(self, call: AttentionCall, attended: Attended) -> Float[Tensor, "batch head query_pos"]:
        """The number of each row."""
        raise MetricError(
            f"{type(self).__name__} was given a call; a RowMetric must define score(call, attended)"
        )

    def rows(self, call: AttentionCall, attended: Attended) -> Bool[Tensor, "batch query_pos"]:
        """Rows that count; all real queries unless overridden."""
        return call.query_real

    def weight(self, call: AttentionCall, attended: Attended) -> Float[Tensor, "batch #head query_pos"]:
        """What a row adds to the denominator: 1 unless overridden."""
        return torch.ones(call.size[:2], device=call.query_real.device)[:, None]

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add the scores of the rows that count to each prompt's cell."""
        self.add(call, self.score(call, attended), self.rows(call, attended), self.weight(call, attended))

    def add(
        self,
        call: AttentionCall,
        score: Float[Tensor, "batch head query_pos"],
        rows: Bool[Tensor, "batch query_pos"],
        weight: Float[Tensor, "batch #head query_pos"],
    ) -> None:
        """Add scores and weights of `rows` to each prompt's cell."""
        total = score.masked_fill(~rows[:, None], 0.0).cpu().sum(-1, dtype=torch.float64)
        count = weight.masked_fill(~rows[:, None], 0.0).cpu().sum(-1, dtype=torch.float64)
        totals, counts = self.finite(total, call), self.finite(count, call).expand_as(total)
        for row in range(len(totals)):
            cell = self.cell(call, row)
            cell["total"] = cell.get("total", 0.0) + totals[row]
            cell["count"] = cell.get("count", 0.0) + counts[row]
