"""One attention call written out: every score, every probability, in float64, and the rows that an edit means.

This is the judge of the interventions. It shares the seam's reading of the call with the code under test, and nothing
else: no blocks, no sweep, no edits, no targets.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from probe_kernels import reference
from probe_kernels.types import Attended, Edits, Layout, Scores, Want
from torch import Tensor, nn

import probe.seam.hub
from probe.seam.call import AttentionCall
from probe.seam.session import Session


@dataclass(frozen=True)
class Dense:
    """A call in float64. ``p`` and ``sink`` are the pattern; ``z`` overrides p·v where an edit works on z."""

    call: AttentionCall
    s: Tensor  # [B, H, Q, K], -inf where hidden
    seen: Tensor  # bool [B, H, Q, K]: what mask, padding and a bias of -inf leave
    sink_logit: Tensor | None  # [B, H, Q]
    p: Tensor
    sink: Tensor | None  # [B, H, Q]
    v: Tensor  # [B, H, K, Dv], repeated over the group
    z: Tensor

    @staticmethod
    def of(call: AttentionCall) -> "Dense":
        """The call, written out."""
        scores, layout = call.scores, call.layout
        seen = reference.visible(layout, scores)
        s = reference.dense_scores(scores, layout, seen)
        logit = None
        if scores.sinks is not None:
            sinks = scores.sinks.double()
            logit = (sinks[None, :, None] if sinks.ndim == 1 else sinks).expand(s.shape[:3])
        v = scores.value.double()
        v = v.repeat_interleave(s.shape[1] // v.shape[1], dim=1)
        bare = Dense(call, s, s.isfinite(), logit, s, logit, v, s)
        return bare.with_scores(s)

    def with_scores(self, s: Tensor) -> "Dense":
        """The softmax of other scores, the learned sink taking its share."""
        whole = torch.logsumexp(s, -1)
        if self.sink_logit is not None:
            whole = torch.logaddexp(whole, self.sink_logit)
        p = torch.exp(s - whole[..., None]).masked_fill(s == -torch.inf, 0.0)
        p = p.masked_fill(whole[..., None] == -torch.inf, 0.0)
        sink = None if self.sink_logit is None else torch.exp(self.sink_logit - whole)
        return replace(self, s=s, p=p, sink=sink, z=p @ self.v)

    def with_pattern(self, p: Tensor, sink: float | Tensor = 0.0) -> "Dense":
        """Another pattern; the sink keeps `sink` of its mass, or has that mass."""
        mass = self.sink
        if mass is not None:
            mass = mass * sink if isinstance(sink, float) else sink
        return replace(self, p=p, sink=mass, z=p @ self.v)

    def with_z(self, z: Tensor) -> "Dense":
        """Another z; the pattern stays."""
        return replace(self, z=z.expand_as(self.z))

    @property
    def i(self) -> Tensor:
        """Real-token number of every query, ``[B, 1, Q, 1]``; -1 for padding."""
        return self.call.query_index[:, None, :, None]

    @property
    def j(self) -> Tensor:
        """Real-token number of every key, ``[B, 1, 1, K]``."""
        return self.call.key_index[:, None, None, :]

    def keys_in(self, start: int, stop: int) -> Tensor:
        """Keys whose real-token number is in a range, ``[B, 1, 1, K]``."""
        return (self.j >= start) & (self.j < stop)


Formula = Callable[[Dense], Dense]
Rows = Callable[[Dense], Tensor]  # bool [B, 1, Q, 1]


@dataclass(frozen=True)
class Part:
    """Which part of a model a formula holds for: heads of one layer, some of its rows, in one phase or both."""

    tower: str
    layer: int
    heads: tuple[int, ...]
    phase: str = "both"
    rows: Rows | None = None

    def put(self, before: Dense, after: Dense) -> Dense:
        """`after` in this part, `before` elsewhere."""
        heads = torch.zeros(before.p.shape[1], dtype=torch.bool)
        heads[list(self.heads)] = True
        chosen = heads[None, :, None, None].expand(before.p.shape[0], -1, before.p.shape[2], 1)
        if self.rows is not None:
            chosen = chosen & self.rows(before)
        sink = before.sink
        if sink is not None and after.sink is not None:
            sink = torch.where(chosen[..., 0], after.sink, sink)
        p, z = torch.where(chosen, after.p, before.p), torch.where(chosen, after.z, before.z)
        return replace(before, p=p, sink=sink, z=z)

    def holds(self, call: AttentionCall) -> bool:
        """Whether the formula is for this call."""
        place = call.place
        return (place.tower, place.layer) == (self.tower, self.layer) and self.phase in ("both", call.phase)


class _Stash:
    """Hands the call on to the dense attention, which is given its scores alone."""

    def __init__(self) -> None:
        self.now: AttentionCall | None = None

    def call(self, call: AttentionCall) -> AttentionCall:
        self.now = call
        return call


@contextmanager
def densely(model: nn.Module, formula: Formula, parts: list[Part], observers: list[Any]) -> Iterator[Session]:
    """The model with attention written out, and `formula` in its parts."""
    stash = _Stash()

    def attend(
        scores: Scores,
        layout: Layout,
        want: Want,
        *,
        edits: Edits | None = None,
        backend: str | None = None,
    ) -> Attended:
        if stash.now is None:
            raise ValueError("attention ran outside any call")
        dense = Dense.of(stash.now)
        for part in parts:
            if part.holds(stash.now):
                dense = part.put(dense, formula(dense))
        bare = replace(want, z=False, lse=False, table=0, parts=frozenset())
        out = reference.statistics(dense.p, layout, bare, sink_mass=dense.sink)
        out.sink_mass = None if dense.sink is None else dense.sink.float()
        out.z = dense.z.to(scores.value.dtype)
        return out

    mine = probe.seam.hub.attend
    probe.seam.hub.attend = attend  # type: ignore[assignment]
    try:
        with Session(model, observers, [stash], mode="fused") as session:
            yield session
    finally:
        probe.seam.hub.attend = mine
