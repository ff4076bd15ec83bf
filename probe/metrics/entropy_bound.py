"""Entropy against the lower bound that the spread of its scores sets."""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall

_ROUNDING = 1e-5  # times (1 + entropy): what float32 sums may hide; a bound exceeded by more is a violation
_WHOLE = 1e-3  # rows whose mass differs from 1 by more are no distribution


class EntropyBound(RowMetric):
    """Mean of a row's entropy less its lower bound, in nats, 0 or more: what the spread of its scores leaves open.

    Bound: with σ = ‖s_i - mean(s_i)‖ over the T keys that the row sees and β = exp(-σ sqrt(T / (T - 1))), ``log(1 +
    (T - 1)β) + σ sqrt(T(T - 1)) β / (1 + (T - 1)β)``. It is that of Zhai et al. 2023 (arXiv:2303.06296) row by row,
    with the row's own centred norm in place of the spectral norm of the weights. σ is taken from log p, which differs
    from s by a constant, so edits, windows, softcaps and biases are in it; a learned sink counts as one more outcome.
    Where a visible key's probability underflows to 0 the bound is 0. Rows with one outcome do not count, nor do rows
    that an edit left without their whole mass. `extra` holds the mean ``bound`` and ``violations``, the share of rows
    whose bound exceeds their entropy beyond rounding: always 0. Every row's block is looked at, which keeps the sweep
    from its quickest path, so ``--metric all`` leaves it out.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> abs(on_pattern(EntropyBound(), torch.ones(1, 6, 6))).round(4)  # uniform rows: entropy = bound = log T
    array([0.])
    """

    info: ClassVar = MetricInfo(
        name="entropy_bound",
        summary="Mean of a row's entropy less the lower bound by the norm of its centred scores, in nats, 0 or more.",
        unit="nats",
        better="high",
        paper="Zhai et al. 2023",
        bibtex="""@inproceedings{zhai2023stabilizing,
  title={Stabilizing Transformer Training by Preventing Attention Entropy Collapse},
  author={Zhai, Shuangfei and Likhomanenko, Tatiana and Littwin, Etai and Busbridge, Dan and Ramapuram, Jason and
          Zhang, Yizhe and Gu, Jiatao and Susskind, Joshua M.},
  booktitle={International Conference on Machine Learning},
  year={2023}
}""",
        slow=True,
    )

    def asks(self, call: AttentionCall) -> Want:
        """Entropy, visible keys, and the spread of log p of every row."""
        return Want(z=False, entropy=True, visible=True, rows={self.own: spread})

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add margins, bounds and violations of the rows that count, head by head."""
        row = _Row.of(call, attended, self.own)
        counts = row.counts.to(torch.float64)
        entropy, bound = wanted(attended.entropy, "entropy").double(), row.bound
        broken = entropy - bound < -_ROUNDING * (1 + entropy)
        parts = {"total": entropy - bound, "bound": bound, "broken": broken.double(), "count": counts}
        for name, values in parts.items():
            sums = self.finite(torch.where(row.counts, values, 0.0).sum(-1), call)
            for at, one in enumerate(sums):
                cell = self.cell(call, at)
                cell[name] = cell.get(name, 0.0) + one

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """The mean bound, and the share of rows that violate it."""
        return {"bound": (cell["bound"], cell["count"]), "violations": (cell["broken"], cell["count"])}


class _Row(NamedTuple):
    """The bound of every row, and whether it counts."""

    bound: Float[Tensor, "batch head query_pos"]
    counts: Bool[Tensor, "batch head query_pos"]

    @classmethod
    def of(cls, call: AttentionCall, attended: Attended, name: str) -> "_Row":
        positive, mass, mean, norm = attended.rows[name].double().unbind(-1)
        visible = wanted(attended.visible, "visible")
        visible = (visible if visible.ndim == 3 else visible[:, None]).expand(positive.shape).double()
        whole = positive == visible
        outcomes = visible
        if attended.sink_mass is not None:
            sink = attended.sink_mass.double()
            gap = sink.clamp_min(1e-300).log() - mean
            norm = (norm.square() + gap.square() * positive / (positive + 1)).sqrt()
            mass, whole, outcomes = mass + sink, whole & (sink > 0), visible + 1
        counts = call.query_real[:, None] & (outcomes > 1) & ((mass - 1).abs() < _WHOLE)
        bound = lower_bound(norm, outcomes.clamp_min(2.0))
        return cls(torch.where(whole, bound, 0.0), counts)


def lower_bound(spread: Float[Tensor, "*rows"], outcomes: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """The least entropy, in nats, that `outcomes` scores whose centred norm is `spread` can have."""
    beta = torch.exp(-spread * (outcomes / (outcomes - 1)).sqrt())
    total = 1 + (outcomes - 1) * beta
    bound: Tensor = total.log() + spread * (outcomes * (outcomes - 1)).sqrt() * beta / total
    return bound


def spread(
    block: Float[Tensor, "batch head rows keys"], rows: slice, keys: slice
) -> Float[Tensor, "batch head rows 4"]:
    """Of each row: keys with p > 0, their mass, the mean of log p over them, and the norm of log p less that mean."""
    seen = block > 0
    log = block.log().masked_fill(~seen, 0.0)
    count = seen.sum(-1)
    mean = log.sum(-1) / count.clamp_min(1)
    norm = torch.linalg.vector_norm((log - mean[..., None]).masked_fill(~seen, 0.0), dim=-1)
    return torch.stack([count.to(mean.dtype), block.sum(-1), mean, norm], dim=-1)
