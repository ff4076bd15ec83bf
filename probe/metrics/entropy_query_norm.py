"""Entropy against query norm: does a head look more sharply where its query is long?"""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from probe_kernels.types import Attended, Want
from scipy.stats import rankdata
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, FoldMetric, MetricInfo
from probe.metrics.entropy import Entropy
from probe.metrics.making import at_least
from probe.seam.call import AttentionCall

Rows = Float[np.ndarray, "head row"]

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

    def __init__(self, skip: int = 0) -> None:
        super().__init__(skip=skip)
        at_least("entropy_query_norm", "skip", skip, 0)
        self.skip = skip
        self._entropy = Entropy(normalized=True)

    def asks(self, call: AttentionCall) -> Want:
        """What the normalised entropy needs."""
        return self._entropy.asks(call)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Keep norm and entropy of every real row of each prompt."""
        if call.scores is None:
            raise MetricError(f"{self.spec} was asked; {call.place.module} gave no queries")
        norm = torch.linalg.vector_norm(call.scores.query.detach().float(), dim=-1)
        entropy = self._entropy.score(call, attended)
        counted = self._entropy.rows(call, attended) & (call.query_index >= self.skip)
        pair = torch.stack([norm.expand_as(entropy), entropy], dim=1)  # [batch, 2, head, row]
        kept = self.finite(pair.masked_fill(~counted[:, None, None], 0.0), call)
        for row, at in enumerate(call.query_index.cpu()):
            flags = counted[row].cpu()
            self._keep(self.cell(call, row), kept[row][..., flags].float(), at[flags])

    def _keep(self, cell: Cell, pair: Float[Tensor, "2 head row"], at: Int[Tensor, "row"]) -> None:
        have = cell.get("pairs", pair.new_zeros(*pair.shape[:2], 0))
        room = max(have.shape[-1], int(at.max()) + 1 if at.numel() else 0)
        cell["pairs"] = torch.nn.functional.pad(have, (0, room - have.shape[-1]), value=torch.nan)
        cell["pairs"][..., at] = pair

    def pool(self, cells: list[Cell]) -> Float[Tensor, "head"]:
        """Spearman's correlation over the rows of all these prompts."""
        norm, entropy, _ = _rows(cells)
        return torch.from_numpy(correlation(_ranks(norm), _ranks(entropy)))

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Correlation within one prompt times its rows, and its rows: what a prompt weighs."""
        norm, entropy, _ = _rows([cell])
        return _weighed(correlation(_ranks(norm), _ranks(entropy)), norm.shape[-1])

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """Pearson's correlation, and Spearman's with the row's place held fixed."""
        norm, entropy, place = _rows([cell])
        at = np.broadcast_to(place, norm.shape)
        partial = partial_correlation(*map(_ranks, (norm, entropy, at)))
        n = norm.shape[-1]
        return {"pearson": _weighed(correlation(norm, entropy), n), "partial": _weighed(partial, n)}


def correlation(one: Rows, other: Rows) -> Float[np.ndarray, "head"]:
    """Pearson's correlation along the last axis; NaN with fewer than three rows, or where one does not vary."""
    if one.shape[-1] < _FEWEST:
        return np.full(one.shape[0], np.nan)
    a, b = (part - part.mean(-1, keepdims=True) for part in (one, other))
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    flat = (np.ptp(one, axis=-1) == 0) | (np.ptp(other, axis=-1) == 0)
    return np.where(flat, np.nan, (a * b).sum(-1) / np.where(flat, 1.0, spread))


def partial_correlation(one: Rows, other: Rows, fixed: Rows) -> Float[np.ndarray, "head"]:
    """Correlation of what a linear fit to `fixed` leaves of two rows; NaN where it leaves nothing."""
    r, a, b = correlation(one, other), correlation(one, fixed), correlation(other, fixed)
    left = (1.0 - a * a) * (1.0 - b * b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(left > _NOISE, (r - a * b) / np.sqrt(left), np.nan)


def _rows(cells: list[Cell]) -> tuple[Rows, Rows, Float[np.ndarray, "row"]]:
    """Norms, entropies and places of the rows that count, of all these prompts."""
    pairs = np.concatenate([cell["pairs"].double().numpy() for cell in cells], axis=-1)
    place = np.concatenate([np.arange(cell["pairs"].shape[-1], dtype=np.float64) for cell in cells])
    counted = ~np.isnan(pairs[0, 0]) if pairs.shape[1] else np.zeros(pairs.shape[-1], bool)
    return pairs[0][:, counted], pairs[1][:, counted], place[counted]


def _ranks(values: Rows) -> Rows:
    """Ranks along the last axis; all alike where values differ by rounding alone (norms of normalised queries)."""
    if not values.size:
        return values
    largest = np.maximum(np.abs(values).max(-1, keepdims=True), 1e-3)
    alike = np.ptp(values, axis=-1, keepdims=True) <= _ROUNDING * largest
    return np.where(alike, 0.0, rankdata(values, axis=-1))


def _weighed(values: Float[np.ndarray, "head"], rows: int) -> tuple[Tensor, Tensor]:
    weight = np.where(np.isnan(values), 0.0, float(rows))
    return torch.from_numpy(np.nan_to_num(values) * weight), torch.from_numpy(weight)
