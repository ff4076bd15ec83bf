"""From a fold's cells to answers: density, mass kept (mean, 5th percentile, minimum) and output error per head."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from probe.analysis.patterning.fold import PatternFold
from probe.metrics.answering import answers
from probe.metrics.base import Cell, FoldMetric, MetricInfo
from probe.report import Answer
from probe.report.pattern_costs import CONTROL

PAPER = "Jiang et al. 2024"
BIBTEX = """@inproceedings{jiang2024minference,
  title={{MInference} 1.0: Accelerating Pre-filling for Long-Context {LLMs} via Dynamic Sparse Attention},
  author={Jiang, Huiqiang and Li, Yucheng and Zhang, Chengruidong and Wu, Qianhui and Luo, Xufang and others},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}"""

Sums = Callable[[Cell, str], tuple[Tensor, Tensor]]
Pool = Callable[[Tensor], Tensor]  # mass of every row [head, row] -> a number per head


@dataclass(frozen=True)
class Number:
    """One number per head: a ratio of sums over rows, or (`pool`) something that all rows are needed for."""

    name: str
    summary: str
    unit: str
    better: Literal["high", "low"]  # which end a ranking lists first: the heads that cost most
    sums: Sums
    pool: Pool | None = None
    root: bool = False


def _ratio(top: str, bottom: str) -> Sums:
    return lambda cell, prefix: (cell[prefix + top], cell[prefix + bottom])


def _rows(cell: Cell, prefix: str) -> tuple[Tensor, Tensor]:
    mass = cell[prefix + "mass"].double()
    return mass.sum(1), torch.full((mass.shape[0],), mass.shape[1], dtype=torch.float64)


def percentile(mass: Tensor) -> Tensor:
    """The 5th percentile of each head's rows, linear between neighbours as NumPy's."""
    return torch.from_numpy(np.percentile(mass.double().numpy(), 5.0, axis=1))


NUMBERS = (
    Number(
        "density", "Share of the visible (query, key) pairs that are kept, 0 to 1.", "share of pairs", "high",
        _ratio("kept", "visible"),
    ),
    Number(
        "mass_kept", "Share of a row's attention to keys that the kept keys have, 0 to 1, mean over rows.",
        "share of mass", "low", _rows,
    ),
    Number(
        "mass_kept_p5", "The same, 5th percentile over rows.", "share of mass", "low", _rows, percentile,
    ),
    Number(
        "mass_kept_min", "The same, the row that loses most.", "share of mass", "low", _rows,
        lambda mass: mass.double().amin(1),
    ),
    Number(
        "output_error", "‖O−O_S‖/‖O‖ of a head's outputs over all rows (Frobenius), 0 or more.", "ratio", "high",
        _ratio("error2", "norm2"), root=True,
    ),
)  # fmt: skip


class _View(FoldMetric):
    """One number of a fold's cells, answered as a metric answers; it watches nothing itself."""

    def __init__(self, fold: PatternFold, number: Number, prefix: str) -> None:
        self.info = MetricInfo(  # type: ignore[misc]
            number.name, number.summary, number.unit, number.better, PAPER, BIBTEX
        )
        super().__init__()
        where = f"{CONTROL}/" if prefix else ""
        self.spec = f"{fold.spec}/{where}{number.name}"
        self.cells = fold.cells
        self._number, self._prefix = number, prefix
        self.pool = None if number.pool is None else partial(_pooled, number.pool, prefix)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Total and weight per head."""
        return self._number.sums(cell, self._prefix)

    def finish(self, values: np.ndarray) -> np.ndarray:
        """The root of a ratio of squares."""
        return np.sqrt(values) if self._number.root else values


def _pooled(pool: Pool, prefix: str, cells: Iterable[Cell]) -> Tensor:
    return pool(torch.cat([cell[prefix + "mass"] for cell in cells], 1))


def answers_of(fold: PatternFold) -> list[Answer]:
    """Every number of a pattern, then every number of its control."""
    prefixes = ("", "control_") if fold.control is not None else ("",)
    return [one for prefix in prefixes for number in NUMBERS for one in answers(_View(fold, number, prefix))]
