"""Metrics that read a head's vectors from their first two moments: d×d numbers per head, however long the prompt."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, CellKey, FoldMetric
from probe.seam.call import AttentionCall

OPEN = 16  # prompts whose moments are kept at a time; of those before them the finished numbers alone

Vectors = Float[Tensor, "batch head token d"]
Flags = Bool[Tensor, "batch token"]


class MomentMetric(FoldMetric):
    """A metric with one number per head and prompt, worked out from moments of vectors; write `take` and `value`.

    `take` calls `fold` with named vectors; `value` reads their count, mean and second moments through `moments`.
    Prompts are pooled by the number of vectors under the name `weigh`. All sums are float64. Second moments take d²/2
    numbers per head, so that only the latest `OPEN` prompts keep theirs; of the others the finished number is kept.
    """

    weigh: str  # the vectors whose count a prompt weighs in the mean

    def value(self, cell: Cell) -> Float[Tensor, "head"]:
        """The number of each head of a prompt; NaN where it is undefined."""
        raise MetricError(f"{type(self).__name__} has moments; a MomentMetric must define value(cell)")

    def fold(self, call: AttentionCall, named: Mapping[str, tuple[Vectors, Flags]]) -> None:
        """Add the vectors that are flagged, by name, to each prompt's cell.

        Raises `MetricError` where a prompt goes on after `OPEN` later ones have begun, or a vector is not finite.
        """
        self._close(call)
        for row in range(call.size[0]):
            cell = self.cell(call, row)
            if "closed" in cell:
                raise MetricError(
                    f"{self.spec} was asked; prompt {call.batch.prompts[row]} went on after {OPEN} later prompts had "
                    "begun: run each prompt to its end before the next"
                )
            cell.pop("value", None)
            for name, (vectors, flags) in named.items():
                self._add(call, cell, name, vectors[row][:, flags[row]])

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The value of each head times what the prompt weighs, and that weight; 0 where the value is undefined."""
        if "value" not in cell:
            cell["value"] = self.value(cell)
        weight = torch.where(cell["value"].isnan(), 0.0, cell[f"count_{self.weigh}"])
        return cell["value"].nan_to_num(0.0) * weight, weight

    def _add(self, call: AttentionCall, cell: Cell, name: str, vectors: Tensor) -> None:
        exact = vectors.detach().double()
        squares = _packed(exact.transpose(1, 2) @ exact)
        for part, value in (("sum", exact.sum(1)), ("square", squares)):
            key = f"{part}_{name}"
            cell[key] = cell.get(key, 0.0) + self.finite(value, call)
        key = f"count_{name}"
        cell[key] = cell.get(key, torch.zeros((), dtype=torch.float64)) + exact.shape[1]

    def _close(self, call: AttentionCall) -> None:
        tower, layer = call.place.tower, call.place.layer
        prompt = min(call.batch.prompts) - OPEN - 1
        while (key := CellKey(prompt, tower, layer)) in self.cells and "closed" not in self.cells[key]:
            cell = self.cells[key]
            if "not_applicable" not in cell:
                self.head(cell)
                for name in [one for one in cell if one.startswith(("sum_", "square_"))]:
                    del cell[name]
            cell["closed"] = torch.tensor(True)
            prompt -= 1


def moments(cell: Cell, name: str) -> tuple[float, Float[Tensor, "head d"], Float[Tensor, "head d d"]]:
    """Count n, mean E[x] and second moment E[xxᵀ] (about 0) of the vectors that were folded under a name."""
    count = float(cell[f"count_{name}"])
    most = max(count, 1.0)
    return count, cell[f"sum_{name}"] / most, _unpacked(cell[f"square_{name}"]) / most


def _packed(square: Float[Tensor, "head d d"]) -> Float[Tensor, "head pair"]:
    """The upper triangle, row by row: the matrix is symmetric."""
    rows, columns = torch.triu_indices(square.shape[-1], square.shape[-1])
    return square[:, rows, columns]


def _unpacked(packed: Float[Tensor, "head pair"]) -> Float[Tensor, "head d d"]:
    d = int((2 * packed.shape[-1]) ** 0.5)  # d·(d + 1)/2 pairs
    rows, columns = torch.triu_indices(d, d)
    square = packed.new_empty(packed.shape[0], d, d)
    square[:, rows, columns] = packed
    square[:, columns, rows] = packed
    return square
