"""What a metric is: it wants statistics, folds each call into cells, and answers per head.

A `Metric` keeps one small *cell* per (prompt, tower, layer): named float64 tensors on the CPU. Everything else follows
from the cells: pooled head maps, values per prompt, token maps, merging of batches, resuming of interrupted runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import MetricError
from probe.seam.call import AttentionCall

Cell = dict[str, Tensor]


class CellKey(NamedTuple):
    """Which prompt, tower and layer a cell belongs to."""

    prompt: int
    tower: str
    layer: int


@dataclass(frozen=True)
class MetricInfo:
    """What a reader must know to use a metric's number: unit, range, better end, paper."""

    name: str
    summary: str  # one sentence, with unit and range
    unit: str
    better: Literal["high", "low"]  # which end `top` lists first
    paper: str  # short reference
    bibtex: str  # full entry
    causal_only: bool = False  # not applicable to bidirectional attention
    per_token: bool = False  # keeps a token map as well
    axis: Literal["head", "kv_head"] = "head"


@runtime_checkable
class Metric(Protocol):
    """Folds attention calls into answers per head. `spec` is the spec as typed, the key of its answer."""

    info: ClassVar[MetricInfo]
    spec: str
    cells: dict[CellKey, Cell]

    def want(self, call: AttentionCall) -> Want:
        """The statistics this metric needs of this call."""

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Fold one call's statistics into the cells."""

    def head(self, cell: Cell) -> tuple[Float[Tensor, "head"], Float[Tensor, "head"]]:
        """A cell's total and weight per head; pooled value = Σ totals / Σ weights (NaN where the weight is 0)."""

    def token(self, cell: Cell) -> Float[Tensor, "head token"] | None:
        """The cell's token map, NaN where undefined; None for metrics without one."""


class FoldMetric:
    """The shared half of every metric: splits a batch into prompts and keeps their cells.

    A subclass states `info`, `want` and `fold`; `head` divides ``total`` by ``count`` unless overridden.
    """

    info: ClassVar[MetricInfo]

    def __init__(self, spec: str | None = None) -> None:
        self.spec = spec or self.info.name
        self.cells: dict[CellKey, Cell] = {}

    def want(self, call: AttentionCall) -> Want:
        """The statistics this metric needs of this call."""
        raise MetricError(f"{type(self).__name__} was asked what it wants; a metric must define want(call)")

    def fold(self, cell: Cell, call: AttentionCall, attended: Attended, row: int) -> None:
        """Add batch row `row` of one call to the cell of its prompt."""
        raise MetricError(f"{type(self).__name__} was given a call; a metric must define fold(...) or score(...)")

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Fold every prompt of the batch into its own cell."""
        for row, prompt in enumerate(call.batch.prompts):
            key = CellKey(prompt, call.place.tower, call.place.layer)
            self.fold(self.cells.setdefault(key, {}), call, attended, row)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """``(total, count)`` of a cell, per head."""
        return cell["total"], cell["count"]

    def token(self, cell: Cell) -> Tensor | None:
        """No token map unless a subclass keeps one."""
        return None


class RowMetric(FoldMetric):
    """A metric that is the mean, over real query rows, of one number per row; write `score` and it is done.

    Rows that `rows` excludes do not count; prompts are pooled row by row.
    """

    def score(self, call: AttentionCall, attended: Attended) -> Float[Tensor, "batch head query_pos"]:
        """The number of each row."""
        raise MetricError(f"{type(self).__name__} was given a call; a RowMetric must define score(call, attended)")

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Rows that count, ``bool [batch, query_pos]``; all real queries unless overridden."""
        return call.query_real

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Add the scores of the rows that count to each prompt's cell."""
        counted = self.rows(call, attended)[:, None]
        score = self.score(call, attended).masked_fill(~counted, 0.0)
        totals = score.sum(-1, dtype=torch.float64).cpu()
        counts = counted.sum(-1).expand(-1, totals.shape[1]).to(torch.float64).cpu()
        for row, prompt in enumerate(call.batch.prompts):
            cell = self.cells.setdefault(CellKey(prompt, call.place.tower, call.place.layer), {})
            cell["total"] = cell.get("total", 0.0) + totals[row]
            cell["count"] = cell.get("count", 0.0) + counts[row]


def state(metric: Metric) -> Iterator[tuple[str, np.ndarray]]:
    """A metric's cells as named arrays, ``prompt/tower/layer/name``, for saving an unfinished run."""
    for key, cell in metric.cells.items():
        for name, value in cell.items():
            yield f"{key.prompt}/{key.tower}/{key.layer}/{name}", value.numpy()


def restore(metric: Metric, arrays: dict[str, np.ndarray]) -> None:
    """Put saved cells back; prompts already there are replaced, never added twice."""
    fresh: dict[CellKey, Cell] = {}
    for path, value in arrays.items():
        prompt, tower, layer, name = path.split("/", 3)
        fresh.setdefault(CellKey(int(prompt), tower, int(layer)), {})[name] = torch.from_numpy(np.array(value))
    metric.cells.update(fresh)
