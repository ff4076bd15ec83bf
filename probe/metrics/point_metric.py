"""Metrics that look beyond attention: at the residual stream, MLP outputs or the router."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, CellKey, FoldMetric
from probe.seam.call import Activation, AttentionCall, Point


class PointMetric(FoldMetric):
    """A metric that folds activations at `points`, one cell per prompt, tower and layer; write `see`.

    It asks attention for nothing. `real_tokens` says which tokens of an activation are no padding, and `token_index`
    which of the prompt they are.
    """

    points: ClassVar[frozenset[Point]] = frozenset()

    def see(self, seen: Activation) -> None:
        """Fold one activation."""
        raise MetricError(
            f"{type(self).__name__} was given an activation; a PointMetric must define see(seen)"
        )

    def activation(self, seen: Activation) -> None:
        """Take one activation of a wanted point."""
        if seen.point in self.points:
            self.see(seen)

    def want(self, call: AttentionCall) -> Want:
        """Nothing of attention."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Attention calls say nothing to it."""

    def seen_cell(self, seen: Activation, row: int) -> Cell:
        """The cell that batch row `row` of an activation belongs to."""
        key = CellKey(seen.batch.prompts[row], seen.place.tower, seen.place.layer)
        return self.cells.setdefault(key, {})

    def checked(self, values: Tensor, seen: Activation) -> Tensor:
        """The same values in float64 on the CPU; raises `MetricError` naming the block where one is not finite."""
        values = values.detach().cpu().double()
        if not bool(torch.isfinite(values).all()):
            raise MetricError(
                f"{self.spec} was asked; {seen.point} of {seen.place.module!r} gave NaN or infinity: "
                "check the weights and try a wider dtype (--dtype float32)"
            )
        return values


class LayerMetric(PointMetric):
    """A metric that is the mean over real tokens of one number per layer and token; write `score`."""

    def score(self, seen: Activation) -> Float[Tensor, "batch token"] | None:
        """The number of each token; None where this activation alone gives none yet."""
        raise MetricError(
            f"{type(self).__name__} was given an activation; a LayerMetric must define score(seen)"
        )

    def see(self, seen: Activation) -> None:
        """Add the scores of real tokens to each prompt's cell."""
        score = self.score(seen)
        if score is None:
            return
        real = real_tokens(seen)
        values = self.checked(score.masked_fill(~real, 0.0), seen)
        for row, flags in enumerate(real.cpu()):
            cell = self.seen_cell(seen, row)
            cell["total"] = cell.get("total", torch.zeros(1, dtype=torch.float64)) + values[row].sum()
            cell["count"] = cell.get("count", torch.zeros(1, dtype=torch.float64)) + flags.sum()


def real_tokens(seen: Activation) -> Bool[Tensor, "batch token"]:
    """Which tokens of an activation count: True where they are no padding."""
    rows, length = seen.value.shape[:2]
    real = seen.batch.real
    if real is None or seen.place.tower not in ("decoder", "encoder") or real.shape[1] < seen.start + length:
        return torch.ones(rows, length, dtype=torch.bool, device=seen.value.device)
    return real[:, seen.start : seen.start + length].to(seen.value.device)


def token_index(seen: Activation) -> Int[Tensor, "batch token"]:
    """Index of each token of an activation among the real tokens of its prompt; -1 for padding."""
    real = real_tokens(seen)
    before = torch.zeros(real.shape[0], 1, dtype=torch.int64, device=real.device)
    if seen.batch.real is not None and seen.place.tower in ("decoder", "encoder"):
        before = seen.batch.real[:, : seen.start].sum(1, keepdim=True).to(real.device)
    elif seen.start:
        before = before + seen.start
    return (before + torch.cumsum(real, 1) - 1).masked_fill(~real, -1)
