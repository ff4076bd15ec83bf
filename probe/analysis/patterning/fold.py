"""Watches calls for one pattern: what it keeps of each row of each head, prompt by prompt."""

from typing import ClassVar

import torch
from probe_kernels.select import Pattern
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.analysis.patterning.control import Control
from probe.analysis.patterning.price import Price, price
from probe.analysis.patterning.whole import NEED, Whole, Wholes
from probe.interventions.selecting import Selecting
from probe.metrics.base import Cell, FoldMetric, MetricInfo
from probe.seam.call import AttentionCall

_SUMS = ("kept", "visible", "error2", "norm2")


class PatternFold(FoldMetric):
    """What one pattern costs, in cells of sums and of every row's mass; with its control's beside it.

    Only whole prompts are looked at (the phase prefill): in a decode step a pattern has one row to choose for.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        "pattern", "What a sparse pattern keeps.", "", "high", "", "", True, needs=frozenset({"values"})
    )
    need: ClassVar[Want] = NEED

    def __init__(self, spec: str, pattern: Pattern, wholes: Wholes, control: Control | None = None) -> None:
        super().__init__()
        self.pattern, self.control = pattern, control
        self.spec = spec
        self._wholes = wholes
        self._selecting = Selecting()

    def asks(self, call: AttentionCall) -> Want:
        """Output, lse and number of visible keys of whole prompts."""
        return NEED if call.phase == "prefill" else Want(z=False)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Select, attend to what was selected, and keep what that loses."""
        if call.phase != "prefill":
            return
        with torch.no_grad():
            whole = self._wholes.of(call, attended)
            found = self._price(self.pattern, whole)
            self._keep(call, found, "")
            if self.control is not None:
                self._keep(call, self._price(self.control.like(found.density), whole), "control_")

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Kept and visible pairs per head."""
        return cell["kept"], cell["visible"]

    def _price(self, pattern: Pattern, whole: Whole) -> Price:
        selection = self._selecting.select(pattern, whole.call, whole.layout)
        return price(whole, selection, self._wholes.kernels)

    def _keep(self, call: AttentionCall, found: Price, prefix: str) -> None:
        real = call.query_real
        for row in range(len(call.batch.prompts)):
            cell = self.cell(call, row)
            mass = self.finite(found.mass[row][:, real[row]], call).float()
            before = cell.get(prefix + "mass")
            cell[prefix + "mass"] = mass if before is None else torch.cat((before, mass), 1)
            for name in _SUMS:
                total = self.finite(getattr(found, name)[row].sum(-1), call)
                cell[prefix + name] = total + cell.get(prefix + name, torch.zeros_like(total))
