"""What duplicate-token and induction heads share: mass on a token pattern as a share of all mass, and its ceiling."""

from typing import Literal

from probe_kernels.types import Attended, Match, Want
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell
from probe.metrics.making import one_of
from probe.metrics.matching import MatchedRows
from probe.metrics.row_metric import RowMetric
from probe.metrics.rows import mass_want, row_mass
from probe.seam.call import AttentionCall

Norm = Literal["all", "matched"]


class TokenDetector(RowMetric):
    """Σ(A ⊙ P) / ΣA for a 0-1 target P of token matches (TransformerLens's ``mul``, nothing excluded).

    `norm="matched"` divides by the number of rows that see a match instead. The answer also tells `coverage`, the
    share of rows that see a match: the most that a perfect head can score under ``norm="all"``.
    """

    with_self = True

    def __init__(self, norm: Norm = "all") -> None:
        super().__init__(norm=norm)
        one_of(self.info.name, "norm", norm, ("all", "matched"))
        self.norm = norm
        self._matched = MatchedRows(self.with_self)
        self._last: tuple[AttentionCall, Match] | None = None

    def target(self, call: AttentionCall) -> Match:
        """The ids whose equality makes P."""
        raise MetricError(f"{type(self).__name__} was given a call; a TokenDetector must define target(call)")

    def _match(self, call: AttentionCall) -> Match:
        if self._last is None or self._last[0] is not call:
            self._last = (call, self.target(call))
        return self._last[1]

    def asks(self, call: AttentionCall) -> Want:
        """Mass on the target, and the mass of each row."""
        return Want(z=False, matches={self.own: self._match(call)}) | mass_want(call)

    def weight(self, call: AttentionCall, attended: Attended) -> Tensor:
        """The row's mass, or 1 for a row with a match and 0 for others."""
        if self.norm == "all":
            return row_mass(call, attended)
        return self._matched.of(call, self._match(call)).float()[:, None]

    def score(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Mass of each row on the target."""
        return attended.matches[self.own]

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the rows, and count those that have a match."""
        super().take(call, attended)
        matched = (self._matched.of(call, self._match(call)) & call.query_real).sum(-1).cpu().double()
        rows = call.query_real.sum(-1).cpu().double()
        for row in range(len(rows)):
            cell = self.cell(call, row)
            cell["matched"] = cell.get("matched", 0.0) + matched[row]
            cell["rows"] = cell.get("rows", 0.0) + rows[row]

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """Coverage: rows with a match ÷ rows."""
        return {"coverage": (float(cell["matched"]), float(cell["rows"]))}
