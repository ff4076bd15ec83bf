"""Entropy against query norm: does a head look more sharply where its query is long?"""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from probe_kernels.types import Attended, Want
from scipy.stats import rankdata
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, FoldMetric, MetricInfo, wanted
from probe.metrics.making import at_least
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

Rows = Float[np.ndarray, "*head row"]
Values = Float[np.ndarray, "*head"]

_LEFT = 0.01  # mass that the other keys need, where the first one is left out
_FEWEST = 3  # rows that a correlation needs: two always lie on a line
_ROUNDING = 1e-6  # of the largest value: differences below it are no differences
_NOISE = 1e-12  # of a variance: below it nothing is left


class EntropyQueryNorm(FoldMetric):
    """Spearman's correlation, over rows, of a query's norm and its row's normalised entropy, −1 to 1.

    Rows of all prompts are ranked together, ties sharing their mean rank; entropy is that of
    ``entropy:normalized=true``, and rows that see one key do not count. Undefined with fewer than three rows, or where
    norms or entropies do not differ. Two numbers per row are kept, never a row of the pattern.

    Args:
        skip: Leave out the rows of the first tokens of every prompt.
        without_first: Of each row, leave out the first key that it sees and scale the rest to sum to 1, since a sink
            there can be most of what entropy tells. Rows that give the others less than 0.01 do not count.

    Extra maps, means over prompts weighed by rows: ``pearson``, the linear correlation; ``partial``, Spearman's with
    the row's place in the prompt held fixed, since norm and entropy may both follow the place alone.

    A query's norm is the inverse temperature of its row, other things equal. Meng et al., "NaLaFormer: Norm-Aware
    Linear Attention for Transformer Models", 2025 (arXiv:2506.21137).

    >>> import torch
    >>> from probe.testing.feeding import Sample, feed
    >>> n = 8
    >>> key = torch.eye(n).double()[None, None]
    >>> longer = torch.zeros(1, 1, n, n).double()
    >>> longer[..., 0] = torch.arange(1, n + 1)  # row i asks for the first key, with logit i
    >>> metric = feed(EntropyQueryNorm(), [Sample(longer, key, key, torch.arange(n))])
    >>> metric.pool(list(metric.cells.values()))
    tensor([-1.], dtype=torch.float64)
    """

    info: ClassVar = MetricInfo(
        name="entropy_query_norm",
        summary="Spearman correlation over rows of query norm and normalised entropy, -1 (sharper when longer) to 1.",
        unit="correlation",
        better="low",
        paper="Meng et al. 2025",
        bibtex="""@misc{meng2025nalaformer,
  title={NaLaFormer: Norm-Aware Linear Attention for Transformer Models},
  author={Meng, Weikang and Luo, Yadan and Huo, Liangyu and Wang, Yaowei and Li, Xin and Zhang, Zheng},
  year={2025},
  eprint={2506.21137},
  archivePrefix={arXiv}
}""",
        needs=frozenset({"values"}),
    )

    def __init__(self, skip: int = 0, without_first: bool = False) -> None:
        super().__init__(skip=skip, without_first=without_first)
        at_least("entropy_query_norm", "skip", skip, 0)
        self.skip, self.without_first = skip, without_first

    def asks(self, call: AttentionCall) -> Want:
        """Entropy, visible keys, and the mass of the first one where it is left out."""
        return Want(z=False, entropy=True, visible=True, first=(1,) if self.without_first else ())

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Keep norm and entropy of every real row of each prompt."""
        if call.scores is None:
            raise MetricError(f"{self.spec} was asked; {call.place.module} gave no queries")
        norm = torch.linalg.vector_norm(call.scores.query.detach().float(), dim=-1)
        entropy, rows = self._normalised(call, attended)
        counted = rows & call.query_real & (call.query_index >= self.skip)
        pair = torch.stack([norm.expand_as(entropy), entropy], dim=1)  # [batch, 2, head, row]
        # An entropy that is undefined for one head alone stays NaN in its row.
        known = torch.isfinite(entropy)[:, None] & counted[:, None, None]
        kept = self.finite(pair.masked_fill(~known, 0.0), call).masked_fill(~known.cpu(), torch.nan)
        for row, at in enumerate(call.query_index.cpu()):
            flags = counted[row].cpu()
            self._keep(self.cell(call, row), kept[row][..., flags].float(), at[flags])

    def _normalised(
        self, call: AttentionCall, attended: Attended
    ) -> tuple[RowStat, Bool[Tensor, "batch row"]]:
        """Entropy of each row over its largest possible (NaN where it is undefined), and the rows that may count."""
        entropy = wanted(attended.entropy, "entropy")
        outcomes = wanted(attended.visible, "visible").float() + (0 if attended.sink_mass is None else 1)
        if self.without_first:
            first = attended.first[1].clamp(0.0, 1.0)
            rest = 1.0 - first
            most = rest.clamp_min(_LEFT)
            entropy = (entropy + torch.special.xlogy(first, first)) / most + most.log()
            entropy = entropy.masked_fill(rest < _LEFT, torch.nan)
            outcomes = outcomes - 1
        rows = (outcomes > 1) & (wanted(attended.visible, "visible") > 1)
        return entropy / torch.log(outcomes.clamp_min(2.0))[:, None], rows

    def _keep(self, cell: Cell, pair: Float[Tensor, "2 head row"], at: Int[Tensor, "row"]) -> None:
        have = cell.get("pairs", pair.new_zeros(*pair.shape[:2], 0))
        room = max(have.shape[-1], int(at.max()) + 1 if at.numel() else 0)
        cell["pairs"] = torch.nn.functional.pad(have, (0, room - have.shape[-1]), value=torch.nan)
        cell["pairs"][..., at] = pair

    def pool(self, cells: list[Cell]) -> Float[Tensor, "head"]:
        """Spearman's correlation over the rows of all these prompts."""
        norm, entropy, _ = _rows(cells)
        return torch.from_numpy(spearman(norm, entropy))

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Nothing and the rows of each head, which is what a prompt weighs: `pool` makes the value."""
        rows = (~cell["pairs"].isnan().any(0)).sum(-1).double()
        return torch.zeros_like(rows), rows

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """Pearson's correlation, and Spearman's with the row's place held fixed."""
        norm, entropy, place = _rows([cell])
        rows = self.head(cell)[1]
        linear = np.where(np.isnan(spearman(norm, entropy)), np.nan, correlation(norm, entropy))
        found = {"pearson": linear, "partial": partial_spearman(norm, entropy, place)}
        return {name: _weighed(values, rows) for name, values in found.items()}


def spearman(norm: Rows, entropy: Rows) -> Values:
    """Correlation of ranks, per head, NaN rows left out; NaN with fewer than three, or where one is constant.

    Norms or entropies that differ by rounding alone are constant (norms of normalised queries).
    """
    return correlation(_ranks(norm), _ranks(entropy))


def partial_spearman(norm: Rows, entropy: Rows, place: Rows) -> Values:
    """Spearman's correlation with the row's place held fixed."""
    return partial_correlation(_ranks(norm), _ranks(entropy), _ranks(place))


def correlation(one: Rows, other: Rows) -> Values:
    """Pearson's over the last axis, NaN rows left out; NaN with fewer than three, or where one is constant."""
    known = ~np.isnan(one + other)
    count = known.sum(-1, keepdims=True)
    a, b = (_centred(part, known, count) for part in (one, other))
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    good = (count[..., 0] >= _FEWEST) & (spread > 0)
    return np.asarray(np.where(good, (a * b).sum(-1) / np.where(good, spread, 1.0), np.nan))


def partial_correlation(one: Rows, other: Rows, fixed: Rows) -> Values:
    """Correlation of what a linear fit to `fixed` leaves of two rows; NaN where it leaves nothing."""
    r, a, b = correlation(one, other), correlation(one, fixed), correlation(other, fixed)
    left = (1.0 - a * a) * (1.0 - b * b)
    good = left > _NOISE
    return np.asarray(np.where(good, (r - a * b) / np.sqrt(np.where(good, left, 1.0)), np.nan))


def rows_of(cells: list[Cell], head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Norm, entropy and place of the rows of a head that count, of all these prompts: [row] each."""
    norm, entropy, place = (part[head] for part in _rows(cells))
    known = ~np.isnan(norm)
    return norm[known], entropy[known], place[known]


def _rows(cells: list[Cell]) -> tuple[Rows, Rows, Rows]:
    """Norms, entropies and places of all rows of these prompts, NaN where a row of a head does not count."""
    pairs = np.concatenate([cell["pairs"].double().numpy() for cell in cells], axis=-1)
    places = np.concatenate([np.arange(cell["pairs"].shape[-1], dtype=np.float64) for cell in cells])
    unknown = np.isnan(pairs).any(0)
    norm, entropy, place = (np.where(unknown, np.nan, part) for part in (*pairs, places))
    return norm, entropy, place


def _centred(values: np.ndarray, known: np.ndarray, count: np.ndarray) -> np.ndarray:
    filled = np.where(known, values, 0.0)
    return np.asarray(np.where(known, filled - filled.sum(-1, keepdims=True) / np.maximum(count, 1), 0.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, ties sharing their mean rank; all alike where values differ by rounding alone."""
    if not values.shape[-1]:
        return values
    unknown = np.isnan(values)
    low = np.where(unknown, np.inf, values).min(-1, keepdims=True)
    high = np.where(unknown, -np.inf, values).max(-1, keepdims=True)
    alike = ~(high - low > _ROUNDING * np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-3))
    ranks = np.asarray(rankdata(np.where(unknown, np.inf, values), axis=-1))  # what does not count comes last
    return np.asarray(np.where(unknown, np.nan, np.where(alike, 0.0, ranks)))


def _weighed(values: Values, rows: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.from_numpy(values)
    weight = torch.where(found.isnan(), 0.0, rows)
    return found.nan_to_num(0.0) * weight, weight
