"""Mass of one key: what the queries that can see it give it."""

from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want

from probe.metrics.base import FoldMetric, MetricInfo, wanted
from probe.metrics.making import at_least
from probe.metrics.papers import GUO_2024
from probe.seam.call import AttentionCall


class KeyMass(FoldMetric):
    """Mean probability that key `key` receives from the queries that see it, in [0, 1]: c_j / (N - j).

    c_j = Σ_i p_ij, and N - j queries see key j where attention is causal; key 0 sees itself with probability 1, which
    counts (`sink` leaves that row out). Keys are counted among the real tokens of a prompt; undefined (null) where no
    prompt has that many. `received` has the same number of every key, as a token map.

    Guo et al., "Active-Dormant Attention Heads", 2024 (sink mass of a key).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(KeyMass(key=2), torch.ones(1, 4, 4)).round(4)  # mean of 1/3 and 1/4
    array([0.2917])
    """

    info: ClassVar = MetricInfo(
        name="key_mass",
        summary="Mean probability on one key, in [0, 1], over the rows that see it.",
        unit="probability",
        better="high",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
    )
    need: ClassVar = Want(z=False, column=True)

    def __init__(self, key: int = 0, **more: object) -> None:
        super().__init__(key=key, **more)
        at_least(self.info.name, "key", key, 0)
        self.key = key

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add the key's column mass, and how many real queries see it, to each prompt's cell."""
        column, seen_by = wanted(attended.column, "column"), wanted(attended.seen_by, "column")
        here = call.key_index == self.key
        total = self.finite(column.masked_fill(~here[:, None], 0.0).sum(-1, dtype=torch.float64), call)
        count = seen_by.expand(len(column), -1).masked_fill(~here, 0).sum(-1).cpu().double()
        for row in range(len(total)):
            cell = self.cell(call, row)
            cell["total"] = cell.get("total", 0.0) + total[row]
            cell["count"] = cell.get("count", 0.0) + count[row].expand_as(total[row])
