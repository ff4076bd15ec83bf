"""A call as the kernels take it: contiguous int32 positions, rules, and a table of pairs where rules are not enough."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probe_kernels.chunks import Ground
from probe_kernels.fused.rules import Rules
from probe_kernels.types import Layout, Scores


@dataclass(frozen=True)
class Functional:
    """One weighting of p: its Triton function's kind, its numbers, and the ids it compares (queries', keys')."""

    kind: str
    numbers: tuple[int, ...] = (0,)
    query_ids: Tensor | None = None  # int [b, Q]
    key_ids: Tensor | None = None  # int [b, K]


@dataclass(frozen=True)
class Problem:
    """One call, or some of its rows."""

    scores: Scores
    layout: Layout
    ground: Ground
    rows: slice
    rules: Rules
    dense: Tensor | None  # int8 [b, rows, K]: what is visible, where the mask has no rules
    key_real: Tensor | None  # int8 [b, K]
    query_pos: Tensor  # int32 [b, Q]
    key_pos: Tensor
    query_segment: Tensor | None
    key_segment: Tensor | None
    careful: bool  # some value is no number

    @staticmethod
    def of(scores: Scores, layout: Layout) -> "Problem":
        """The whole call."""
        n_query, n_key = scores.query.shape[2], scores.key.shape[2]
        ground = Ground(layout, n_query, n_key)
        query_pos, key_pos = as_int32(layout.query_pos), as_int32(layout.key_pos)
        rules = Rules.of(layout.mask, key_pos)
        value = scores.value
        real = ground.key_real
        return Problem(
            scores,
            layout,
            ground,
            slice(0, n_query),
            Rules.none(key_pos) if rules is None else rules,
            None,
            None if real is None else real.to(torch.int8).contiguous(),
            query_pos,
            key_pos,
            None if layout.query_segment is None else as_int32(layout.query_segment),
            None if layout.key_segment is None else as_int32(layout.key_segment),
            value is not None and not bool(value.sum(dtype=torch.float32).isfinite()),
        )

    @property
    def ruled(self) -> bool:
        """Whether the kernels can tell by themselves which pairs are visible."""
        return Rules.of(self.layout.mask, self.key_pos) is not None

    def part(self, rows: slice) -> "Problem":
        """Some rows, with what they see written out."""
        seen = self.ground.tile(rows, slice(0, self.ground.n_key))
        return replace(self, rows=rows, dense=None if seen is None else seen.to(torch.int8).contiguous())

    def without(self, hidden: Tensor) -> "Problem":
        """The same call with more keys hidden, bool ``[b, K]``."""
        real = ~hidden if self.key_real is None else (self.key_real != 0) & ~hidden
        return replace(self, key_real=real.to(torch.int8).contiguous())

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.scores.query.shape[1] // self.scores.key.shape[1]


def as_int32(tensor: Tensor) -> Tensor:
    """Positions, segments or ids as the kernels load them; raises `ValueError` where one does not fit."""
    if tensor.dtype == torch.int64 and tensor.numel():
        low, high = torch.aminmax(tensor)
        if int(low) < -(2**31) or int(high) >= 2**31:
            raise ValueError(
                f"positions and ids must fit 32 bits; found {int(low)} to {int(high)}: renumber them"
            )
    return tensor.to(torch.int32).contiguous()


def step(tensor: Tensor | None) -> int:
    """From one batch row to the next; 0 where all share one."""
    return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)


def steps(tensor: Tensor | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor broadcast to `shape`."""
    return (0,) * len(shape) if tensor is None else tensor.expand(shape).stride()


def given(tensor: Tensor | None, instead: Tensor) -> Any:
    """A tensor for the kernel; where there is none, one that is never read."""
    return instead if tensor is None else tensor
