"""Metrics with one number per layer and token of the residual stream: token maps that grow with the prompt."""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell
from probe.metrics.extreme import UNKNOWN_SPANS, extreme_index
from probe.metrics.point_metric import PointMetric, token_index
from probe.metrics.token_metric import grow
from probe.seam.call import Activation


class TokenPointMetric(PointMetric):
    """A metric with one number per layer and token of what it sees; write `score`, and `head` for a layer's number.

    Token map: the scores. With `span`, cells note the first token of that span as ``at``, else token 0.
    """

    span: str = ""

    def score(self, seen: Activation) -> Float[Tensor, "batch token"]:
        """The number of each token."""
        raise MetricError(
            f"{type(self).__name__} was given an activation; a TokenPointMetric must define score(seen)"
        )

    def see(self, seen: Activation) -> None:
        """Put the scores of real tokens where they belong; where spans are asked and unknown, keep that reason."""
        index = token_index(seen).cpu()
        scores = self.checked(self.score(seen).masked_fill((index < 0).to(seen.value.device), 0.0), seen)
        for row, at in enumerate(index):
            cell = self.seen_cell(seen, row)
            if self.span and not seen.batch.spans:
                cell["not_applicable"] = torch.tensor(list(UNKNOWN_SPANS.encode()), dtype=torch.uint8)
                cell["n_heads"] = torch.tensor(1)
                continue
            cell["at"] = torch.tensor(extreme_index(seen.batch, row, self.span))
            real = at >= 0
            grow(cell, 1, int(at.max()) + 1)
            cell["token_total"][0, at[real]] = scores[row, real]
            cell["token_weight"][at[real]] = 1.0

    def token(self, cell: Cell) -> Float[Tensor, "1 token"]:
        """The scores; NaN for tokens that were not seen."""
        return cell["token_total"].masked_fill(cell["token_weight"] == 0, torch.nan)
