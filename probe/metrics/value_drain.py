"""Value drain: how short the value vector of the sink token is beside those of the others."""

from typing import ClassVar

from probe_kernels.types import Attended
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo
from probe.metrics.extreme import UNKNOWN_SPANS, against_others, extreme_index
from probe.metrics.papers import GUO_2024
from probe.metrics.value_norm import Of, ValueNorm
from probe.seam.call import AttentionCall


class ValueDrain(ValueNorm):
    """Norm of the first token's value vector over the mean norm of the others': ‖v_0‖ / mean_{j≠0} ‖v_j‖, 0 or more.

    Far below 1: a drained value state, so that mass on the token writes next to nothing. With ``of="head_out"`` the
    norms are ‖v_j W_O‖ (see `value_norm`), with `span` token 0 is replaced by the first token of a named span, such as
    the first delimiter. Token map: the norms. Undefined for prompts of one token, and where the span is empty.

    Guo et al., "Active-Dormant Attention Heads", 2024.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(ValueDrain(), torch.ones(1, 3, 3), values=torch.tensor([[[1.0], [4.0], [6.0]]]))
    array([0.2])
    """

    info: ClassVar = MetricInfo(
        name="value_drain",
        summary="Norm of the first token's value vector over the mean of the others', 0 or more.",
        unit="ratio",
        better="low",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
        per_token=True,
        needs=frozenset({"values"}),
    )

    def __init__(self, of: Of = "value", span: str = "") -> None:
        super().__init__(of=of, span=span)
        self.span = span

    def applies(self, call: AttentionCall) -> str | None:
        """With a span, only where the spans of the sequences are known."""
        unknown = UNKNOWN_SPANS if self.span and not call.batch.spans else None
        return super().applies(call) or unknown

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the norms, and note which token stands out."""
        for row in range(len(call.batch.prompts)):
            at = extreme_index(call.batch, row, self.span)
            self.cell(call, row)["at"] = call.key_index.new_tensor(at, device="cpu")
        super().take(call, attended)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The ratio of a prompt; weight 1, or 0 where it is undefined."""
        return against_others(self.token(cell), cell, "mean")
