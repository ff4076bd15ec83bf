"""Query-key shift: how far a head's queries lie from its keys, measured as the keys themselves spread."""

from typing import ClassVar

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, MetricInfo
from probe.metrics.making import at_least
from probe.metrics.moments import MomentMetric, moments
from probe.seam.call import AttentionCall


class QkShift(MomentMetric):
    """How much farther queries lie from the keys than unseen keys do, a ratio of distances; 1 means like a key.

    Keys at even places of the prompt give a mean μ and a covariance C, shrunk towards a multiple of the identity (Chen
    et al.'s oracle approximation). The distance of a set X is the root mean square of Mahalanobis' distance,
    ``D(X) = √(mean over x in X of (x − μ)ᵀ C⁻¹ (x − μ))``; the number is D(queries) / D(keys at odd places). Even and
    odd places lie alike in the prompt, so that rotary embeddings do not tell them apart. q and k are those that meet in
    the score, after rotation and norms. Query heads that share a key/value head are held against its keys. Undefined
    with fewer than two keys of each half. All follows from first and second moments, d×d numbers per head.

    Args:
        skip: Leave out the first tokens of every prompt: 1 leaves out a sink.

    Extra maps: ``queries`` and ``keys``, the two distances, pooled like the head map.

    Deviation: root mean square where Liu et al. show the distribution of distances; no one says which keys fit and
    which are unseen. Liu et al., "RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval",
    2024 (arXiv:2409.10516). Chen et al., "Shrinkage Algorithms for MMSE Covariance Estimation", 2010.

    >>> import torch
    >>> from probe.testing.feeding import feed, samples
    >>> like = samples((400,), heads=2)[0]
    >>> far = feed(QkShift(), [like])  # queries drawn as the keys, twice as long
    >>> total, weight = far.head(next(iter(far.cells.values())))
    >>> bool((abs(total / weight - 2) < 0.3).all())
    True
    """

    info: ClassVar = MetricInfo(
        name="qk_shift",
        summary="Mahalanobis distance of queries to the keys over that of unseen keys, 0 or more; 1 is like a key.",
        unit="ratio",
        better="high",
        paper="Liu et al. 2024",
        bibtex="""@misc{liu2024retrievalattention,
  title={RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval},
  author={Liu, Di and Chen, Meng and Lu, Baotong and Jiang, Huiqiang and Han, Zhenhua and Zhang, Qianxi and others},
  year={2024},
  eprint={2409.10516},
  archivePrefix={arXiv}
}""",
        needs=frozenset({"values"}),
    )
    need: ClassVar = Want(z=False)
    weigh = "query"

    def __init__(self, skip: int = 0) -> None:
        super().__init__(skip=skip)
        at_least("qk_shift", "skip", skip, 0)
        self.skip = skip

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold queries, and the keys that no earlier call has counted."""
        if call.scores is None:
            raise MetricError(f"{self.spec} was asked; {call.place.module} gave no queries and keys")
        index = call.key_index
        seen = [float(self.cell(call, row).get("next", -1)) for row in range(len(index))]
        new = (index > torch.tensor(seen, device=index.device)[:, None]) & (index >= self.skip)
        asks = call.query_real & (call.query_index >= self.skip)
        key = call.scores.key
        named = {
            "query": (call.scores.query, asks),
            "fit": (key, new & (index % 2 == 0)),
            "unseen": (key, new & (index % 2 == 1)),
        }
        self.fold(call, named)
        for row, last in enumerate(index.amax(-1).cpu().tolist()):
            self.cell(call, row)["next"] = torch.tensor(max(float(last), seen[row]))

    def value(self, cell: Cell) -> Tensor:
        """Ratio of the two distances of each query head."""
        queries, keys = _distances(cell)
        cell["queries"], cell["keys"] = queries, keys
        return queries / keys

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """Both distances."""
        _, weight = self.head(cell)
        return {name: (cell[name].nan_to_num(0.0) * weight, weight) for name in ("queries", "keys")}


def _distances(cell: Cell) -> tuple[Float[Tensor, "head"], Float[Tensor, "head"]]:
    """D(queries) and D(unseen keys) of each query head; NaN with fewer than two keys of a half."""
    n_fit, mean, square = moments(cell, "fit")
    n_unseen, mean_unseen, square_unseen = moments(cell, "unseen")
    n_query, mean_query, square_query = moments(cell, "query")
    group = len(mean_query) // len(mean)
    if min(n_fit, n_unseen) < 2 or n_query == 0:
        return (torch.full((len(mean_query),), torch.nan, dtype=torch.float64),) * 2
    precision = torch.linalg.inv(shrunk(square - _outer(mean, mean), n_fit))
    to_keys = _mean_distance(mean, precision, mean_unseen, square_unseen)
    mean, precision = mean.repeat_interleave(group, 0), precision.repeat_interleave(group, 0)
    to_queries = _mean_distance(mean, precision, mean_query, square_query)
    return to_queries, to_keys.repeat_interleave(group, 0)


def _mean_distance(
    mean: Float[Tensor, "head d"],
    precision: Float[Tensor, "head d d"],
    of: Float[Tensor, "head d"],
    square: Float[Tensor, "head d d"],
) -> Float[Tensor, "head"]:
    """√(mean of (x − μ)ᵀ C⁻¹ (x − μ)) from E[x] and E[xxᵀ]: the trace of C⁻¹ E[(x − μ)(x − μ)ᵀ]."""
    spread = square - _outer(of, mean) - _outer(mean, of) + _outer(mean, mean)
    return (precision * spread).sum((-2, -1)).clamp_min(0.0).sqrt()


def shrunk(covariance: Float[Tensor, "head d d"], count: float) -> Float[Tensor, "head d d"]:
    """(1 − ρ) S + ρ (tr S / d) I with ρ of the oracle approximating shrinkage, as ``sklearn.covariance.oas``.

    A head whose vectors do not differ has S = 0; its inverse, and with it every distance, is undefined.
    """
    d = covariance.shape[-1]
    mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    alpha = covariance.square().mean((-2, -1))
    numerator, denominator = alpha + mean.square(), (count + 1.0) * (alpha - mean.square() / d)
    rho = torch.where(denominator > 0, (numerator / denominator.clamp_min(1e-300)).clamp_max(1.0), 1.0)
    scaled = torch.diag_embed((rho * mean)[:, None].expand(-1, d))
    whole = (1.0 - rho)[:, None, None] * covariance + scaled
    return torch.where((mean > 0)[:, None, None], whole, torch.nan)


def _outer(one: Float[Tensor, "head d"], other: Float[Tensor, "head d"]) -> Float[Tensor, "head d d"]:
    return one[:, :, None] * other[:, None, :]
