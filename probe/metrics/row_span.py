"""A row metric over some rows only: those of a named span of the prompt."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from probe_kernels.types import Attended
from torch import Tensor

from probe.errors import UnknownNameError
from probe.metrics.extreme import UNKNOWN_SPANS
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall


def on_rows(metric: RowMetric, span: str) -> RowMetric:
    """The same metric over the rows whose token lies in a span; its spec says so (``sink at trigger``).

    >>> import torch
    >>> from probe.metrics import make
    >>> from probe.testing import on_pattern
    >>> pattern = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    >>> on_pattern(on_rows(make("sink"), "last"), pattern, spans={"last": [False, False, True]})
    array([0.])
    """
    kind = type(metric)

    class OnRows(kind):  # type: ignore[valid-type, misc]
        def applies(self, call: AttentionCall) -> str | None:
            return super().applies(call) or (None if call.batch.spans else UNKNOWN_SPANS)

        def take(self, call: AttentionCall, attended: Attended) -> None:
            rows = call.query_real & _inside(call, span)
            super().take(replace(call, layout=replace(call.layout, query_real=rows)), attended)

    found: RowMetric = object.__new__(OnRows)
    found.__dict__.update(metric.__dict__, cells={}, spec=f"{metric.spec} at {span}")
    return found


def _inside(call: AttentionCall, span: str) -> Bool[Tensor, "batch query_pos"]:
    index = call.query_index
    inside = torch.zeros_like(index, dtype=torch.bool)
    for row, named in enumerate(call.batch.spans):
        if span not in named:
            problem = UnknownNameError.of("span", span, named)
            raise UnknownNameError(f"prompt {call.batch.prompts[row]}: {problem}")
        flags = named[span].bool().to(index.device)
        at = index[row]
        known = (at >= 0) & (at < len(flags))
        inside[row] = known & flags[at.clamp(0, max(len(flags) - 1, 0))]
    return inside
