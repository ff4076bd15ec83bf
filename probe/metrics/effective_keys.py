"""Effective number of keys: how many keys a row would look at if it looked at them alike."""

from typing import ClassVar

from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import MetricInfo, wanted
from probe.metrics.row_metric import RowMetric
from probe.metrics.rows import mass_want, row_mass
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

_TINY = 1e-30


class EffectiveKeys(RowMetric):
    """Mean effective number of keys of a row, from 1 to the visible keys: N_i = (Σ_j p_ij)² / Σ_j p_ij².

    The numerator is 1 unless a learned sink or an edit takes mass from the row; then N is that of the row
    renormalised over its keys. Rows without mass do not count.

    Hill, "Diversity and Evenness: A Unifying Notation and Its Consequences", Ecology 1973 (order 2).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(EffectiveKeys(), torch.ones(1, 5, 5)).round(5)  # mean of 1, 2, 3, 4, 5
    array([3.])
    """

    info: ClassVar = MetricInfo(
        name="effective_keys",
        summary="Mean effective number of keys of a row, 1 to the visible keys.",
        unit="keys",
        better="high",
        paper="Hill 1973",
        bibtex="""@article{hill1973diversity,
  title={Diversity and Evenness: A Unifying Notation and Its Consequences},
  author={Hill, M. O.},
  journal={Ecology},
  volume={54},
  number={2},
  pages={427--432},
  year={1973}
}""",
    )

    def asks(self, call: AttentionCall) -> Want:
        """Σp² and the mass of each row."""
        return Want(z=False, square=True) | mass_want(call)

    def _counts(self, attended: Attended) -> Tensor:
        return wanted(attended.square, "square") > _TINY

    def weight(self, call: AttentionCall, attended: Attended) -> RowStat:
        """1 for rows with mass, per head."""
        return self._counts(attended).float()

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Effective keys of each row; 0 for rows without mass."""
        square = wanted(attended.square, "square").clamp_min(_TINY)
        return (row_mass(call, attended).square() / square).masked_fill(~self._counts(attended), 0.0)
