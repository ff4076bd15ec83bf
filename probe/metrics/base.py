"""What a metric is: it wants statistics, folds each call into cells, and answers per head.

A `Metric` keeps one small *cell* per (prompt, tower, layer): named tensors on the CPU. Everything else follows from
the cells: pooled head maps, values per prompt, token maps, merging of batches, resuming of interrupted runs.

A new metric is a `RowMetric` of five lines (a number per query row) or a `TokenMetric` (a number per token)::

    class LargestProbability(RowMetric):
        info = MetricInfo("largest", "Mean largest probability of a row, in [0, 1].", "probability", "high", "…", "…")
        need = Want(z=False, top=True)

        def score(self, call, attended):
            return attended.top_p
"""

import inspect
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.applies import Need, reason_against
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
    axis: Literal["head", "kv_head", "expert", "layer"] = (
        "head"  # what a layer's values are of; layer = one value
    )
    needs: frozenset[Need] = frozenset()  # what else a call must offer; see probe.metrics.applies
    slow: bool = False  # takes many forwards: left out of --metric all, run by its name or its suite


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
    """The shared half of every metric: asks whether a call fits, and keeps one cell per prompt, tower and layer.

    A subclass states `info`, what it needs (`need`, or `asks` where that depends on the call) and `take`. Parameters
    are keyword arguments of its constructor, annotated ``int``, ``float``, ``bool``, ``str`` or a ``Literal`` of
    strings, and are handed to ``super().__init__`` so that `spec` names the ones that differ from their default.
    """

    info: ClassVar[MetricInfo]
    need: ClassVar[Want] = Want(z=False)

    def __init__(self, **params: object) -> None:
        defaults = inspect.signature(type(self)).parameters
        typed = [f"{k}={_typed(v)}" for k, v in params.items() if k in defaults and v != defaults[k].default]
        self.spec = self.info.name + (":" + ",".join(typed) if typed else "")
        self.cells: dict[CellKey, Cell] = {}

    @property
    def own(self) -> str:
        """A name for statistics that no other metric shares, not even another of the same spec."""
        return f"{self.spec} {id(self)}"

    def asks(self, call: AttentionCall) -> Want:
        """The statistics needed of a call that fits; `need` unless overridden."""
        return self.need

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the statistics of a call that fits."""
        raise MetricError(
            f"{type(self).__name__} was given a call; a metric must define take, score or tokens"
        )

    def applies(self, call: AttentionCall) -> str | None:
        """Why this metric says nothing about a call; None where it applies."""
        return reason_against(call, causal_only=self.info.causal_only, needs=self.info.needs)

    def want(self, call: AttentionCall) -> Want:
        """What is asked of this call: nothing where the metric does not apply."""
        return Want(z=False) if self.applies(call) else self.asks(call)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Fold one call into the cells of its prompts; where the metric does not apply, keep the reason instead."""
        reason = self.applies(call)
        if reason is None:
            self.take(call, attended)
        for row in range(len(call.batch.prompts)):
            if reason is not None:
                self.not_applicable(call, row, reason)
            if call.batch.reordered:
                self.cell(call, row)["reordered"] = torch.tensor(True)

    def not_applicable(self, call: AttentionCall, row: int, reason: str) -> None:
        """Keep why a cell has no numbers."""
        cell = self.cell(call, row)
        cell["not_applicable"] = torch.tensor(list(reason.encode()), dtype=torch.uint8)
        cell["n_heads"] = torch.tensor(call.n_heads)

    def cell(self, call: AttentionCall, row: int) -> Cell:
        """The cell that batch row `row` of a call belongs to."""
        return self.cells.setdefault(CellKey(call.batch.prompts[row], call.place.tower, call.place.layer), {})

    def finite(self, values: Tensor, call: AttentionCall) -> Tensor:
        """The same values in float64 on the CPU; raises `MetricError` naming the layer where one is NaN or infinite."""
        values = values.cpu().double()
        if not bool(torch.isfinite(values).all()):
            raise MetricError(
                f"{self.spec} was asked; layer {call.place.layer} ({call.place.module}) gave NaN or infinity: "
                "check the weights and try a wider dtype (--dtype float32)"
            )
        return values

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """``(total, count)`` of a cell, per head."""
        return cell["total"], cell["count"]

    def token(self, cell: Cell) -> Tensor | None:
        """No token map unless a subclass keeps one."""
        return None

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Last step over a whole tower, ``[layer, head]`` with NaN for missing heads; unchanged unless overridden."""
        return values

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """Further numbers of a cell as ``name: (total, weight)``, pooled per layer like the heads; none by default."""
        return {}

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """Further head maps of a cell as ``name: (total, weight)`` per head, pooled like the first; none by default."""
        return {}


def wanted(value: Tensor | None, name: str) -> Tensor:
    """A statistic that was asked for; raises `MetricError` where it did not come."""
    if value is None:
        raise MetricError(
            f"the statistic {name!r} was wanted; the kernels did not give it: state it in need or asks"
        )
    return value


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
