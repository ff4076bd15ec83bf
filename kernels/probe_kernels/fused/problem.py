"""A call as the kernels take it: what its layout says on the device, its scores in one dtype, which rows are asked."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from probe_kernels.chunks import Ground
from probe_kernels.fused.rules import Rules
from probe_kernels.types import Layout, Scores

_FAR = 2**31
_TILE = 256  # rows, keys or columns of a tile at most: its inner offsets are 32 bits wide


@dataclass(frozen=True)
class Functional:
    """One weighting of p: its Triton function's kind, its numbers, and the ids it compares (queries', keys')."""

    kind: str
    numbers: tuple[int, ...] = (0,)
    query_ids: Tensor | None = None  # int32 [b, Q]
    key_ids: Tensor | None = None  # int32 [b, K]


@dataclass(frozen=True)
class Places:
    """What a layout says, contiguous and on the device; kept with it, as every layer of a forward shares it."""

    query_pos: Tensor  # int32 [b, Q]
    key_pos: Tensor  # int32 [b, K]
    query_segment: Tensor | None
    key_segment: Tensor | None
    key_real: Tensor | None  # int8 [b, K]
    query_real: Tensor | None  # int8 [b, Q]
    rules: Rules | None  # None: the mask is known as a torch function only

    @staticmethod
    def of(ground: Ground) -> "Places":
        """The places of a layout, found on the first call; raises `ValueError` where a position exceeds 32 bits."""
        kept, layout = vars(ground.layout), ground.layout
        if "_places" not in kept:
            key_pos = as_int32(layout.key_pos)
            kept["_places"] = Places(
                as_int32(layout.query_pos),
                key_pos,
                None if layout.query_segment is None else as_int32(layout.query_segment),
                None if layout.key_segment is None else as_int32(layout.key_segment),
                _as_int8(ground.key_real),
                _as_int8(ground.query_real),
                Rules.of(layout.mask, key_pos),
            )
        return cast(Places, kept["_places"])


@dataclass(frozen=True)
class Problem:
    """One call, or some of its rows."""

    scores: Scores
    layout: Layout
    ground: Ground
    places: Places
    rows: slice
    rules: Rules
    dense: Tensor | None  # int8 [b, rows, K]: what is visible, where the mask has no rules
    key_real: Tensor | None  # int8 [b, K]
    careful: bool  # some value is no number

    @staticmethod
    def of(scores: Scores, layout: Layout) -> "Problem":
        """The whole call; raises `ValueError` where a position or segment exceeds 32 bits."""
        n_query, n_key = scores.query.shape[2], scores.key.shape[2]
        ground = Ground(layout, n_query, n_key)
        places = Places.of(ground)
        value = scores.value
        return Problem(
            scores,
            layout,
            ground,
            places,
            slice(0, n_query),
            Rules.none(places.key_pos) if places.rules is None else places.rules,
            None,
            places.key_real,
            value is not None and not bool(value.sum(dtype=torch.float32).isfinite()),
        )

    @property
    def ruled(self) -> bool:
        """Whether the kernels can tell by themselves which pairs are visible."""
        return self.places.rules is not None

    @property
    def in_order(self) -> bool:
        """Whether keys are stored in the order of their positions."""
        return self.ground.key_start is not None

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.scores.query.shape[1] // self.scores.key.shape[1]

    @property
    def asks(self) -> bool:
        """Whether no pair is visible without looking; a bias may hide some as well."""
        return self.key_real is not None or self.dense is not None or self.scores.bias is not None

    @cached_property
    def by_position(self) -> Tensor:
        """Every key in the order of positions, int32 ``[b, 1, 1, K]``: a visit of all by all."""
        return self.places.key_pos.argsort(dim=1, stable=True).to(torch.int32)[:, None, None].contiguous()

    def part(self, rows: slice) -> "Problem":
        """Some rows, with what they see written out."""
        seen = self.ground.tile(rows, slice(0, self.ground.n_key))
        return replace(self, rows=rows, dense=_as_int8(seen))

    def without(self, hidden: Tensor) -> "Problem":
        """The same call with more keys hidden, bool ``[b, K]``."""
        real = ~hidden if self.key_real is None else (self.key_real != 0) & ~hidden
        return replace(self, key_real=_as_int8(real))


def prepared(scores: Scores) -> Scores:
    """The scores as the kernels can take them: one dtype, a positive scale, offsets inside a tile below 2^31."""
    query, key, value, scale = scores.query, scores.key, scores.value, scores.scale
    common = torch.promote_types(query.dtype, key.dtype)
    if value is not None:
        common = torch.promote_types(common, value.dtype)
        value = near(value.to(common))
    if scale <= 0:
        # A maximum of products is one of scores only where the scale is positive.
        query, scale = (query * 0, 1.0) if scale == 0 else (-query, -scale)
    alibi, bias = scores.alibi, scores.bias
    return replace(
        scores,
        query=near(query.to(common)),
        key=near(key.to(common)),
        value=value,
        scale=scale,
        bias=None if bias is None else near(bias),
        alibi=None if alibi is None else alibi.to(torch.float32).contiguous(),
    )


def near(tensor: Tensor) -> Tensor:
    """The tensor, copied together where steps along its last two axes take an offset inside a tile beyond 32 bits."""
    most = max(tensor.stride()[-2:], default=0)
    return tensor.contiguous() if most < _FAR <= most * _TILE * 2 else tensor


def as_int32(tensor: Tensor) -> Tensor:
    """Positions, segments or labels as the kernels load them; raises `ValueError` where one does not fit."""
    if tensor.dtype == torch.int64 and tensor.numel():
        low, high = torch.aminmax(tensor)
        if int(low) < -_FAR or int(high) >= _FAR:
            raise ValueError(
                f"positions, segments and labels must fit 32 bits; found {int(low)} to {int(high)}: renumber them"
            )
    return tensor.to(torch.int32).contiguous()


def renumbered(query_ids: Tensor, key_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Ids that are only compared, int32; numbered anew where they do not fit."""
    both = [one for one in (query_ids, key_ids) if one.dtype == torch.int64 and one.numel()]
    if any(int(one.min()) < -_FAR or int(one.max()) >= _FAR for one in both):
        flat = torch.cat((query_ids.reshape(-1).long(), key_ids.reshape(-1).long()))
        number = torch.unique(flat, return_inverse=True)[1]
        n = query_ids.numel()
        query_ids, key_ids = number[:n].view(query_ids.shape), number[n:].view(key_ids.shape)
    return query_ids.to(torch.int32).contiguous(), key_ids.to(torch.int32).contiguous()


def _as_int8(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(torch.int8).contiguous()


def step(tensor: Tensor | None) -> int:
    """From one batch row to the next; 0 where all share one."""
    return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)


def steps(tensor: Tensor | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor broadcast to `shape`."""
    return (0,) * len(shape) if tensor is None else tensor.expand(shape).stride()


def given(tensor: Tensor | None, instead: Tensor) -> Any:
    """A tensor for the kernel; where there is none, one that is never read."""
    return instead if tensor is None else tensor
