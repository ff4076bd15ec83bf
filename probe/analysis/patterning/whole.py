"""One call as the model has it: what every pattern on it is compared with, computed once for all of them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from probe_kernels import attend
from probe_kernels.types import Attended, Layout, Scores, Want
from torch import Tensor

from probe.metrics.base import wanted
from probe.seam.call import AttentionCall
from probe.seam.numbered import numbered

NEED = Want(z=True, lse=True, visible=True)


@dataclass(frozen=True)
class Whole:
    """Dense attention of a call: its output, and the lse of its keys alone, without a learned sink.

    `bare` are the `scores` without the sink, `sink` its logits, broadcastable to lse; None where there is none.
    """

    call: AttentionCall
    layout: Layout
    scores: Scores
    bare: Scores
    z: Float[Tensor, "batch head query_pos d_head"]
    lse: Float[Tensor, "batch head query_pos"]
    visible: Int[Tensor, "batch 1 query_pos"]
    real: Bool[Tensor, "batch query_pos"]
    sink: Tensor | None

    @staticmethod
    def of(call: AttentionCall, attended: Attended, kernels: str | None) -> "Whole":
        """The whole of a call that has scores, from what the seam computed of it (`NEED`)."""
        scores = call.scores
        if scores is None:
            raise ValueError("the whole of a call without scores was asked; a pattern needs q, k and v")
        lse, sink, bare = wanted(attended.lse, "lse"), scores.sinks, scores
        if sink is not None:
            # Taking the sink's mass out of lse would cancel where the sink has nearly all of it.
            bare = replace(scores, sinks=None)
            found = attend(bare, call.layout, Want(z=False, lse=True), backend=kernels)
            lse = wanted(found.lse, "lse")
            sink = sink.float() if sink.ndim == 3 else sink.float()[None, :, None]
        return Whole(
            call,
            numbered(call),
            scores,
            bare,
            wanted(attended.z, "z"),
            lse,
            wanted(attended.visible, "visible").expand(lse.shape[0], -1)[:, None],
            call.query_real,
            sink,
        )

    def among(self, lse: Tensor) -> Tensor:
        """The share of a row's output that keys with this lse have beside the learned sink, 0 to 1."""
        return torch.ones_like(lse) if self.sink is None else torch.sigmoid(lse - self.sink)


class Wholes:
    """The whole of the call in hand, for all patterns that look at it."""

    def __init__(self, kernels: str | None = None) -> None:
        self.kernels = kernels
        self._last: Whole | None = None

    def of(self, call: AttentionCall, attended: Attended) -> Whole:
        """The whole of a call, computed when it is first asked for."""
        if self._last is None or self._last.call is not call:
            self._last = Whole.of(call, attended, self.kernels)
        return self._last
