"""From whatever mask an attention function is handed to the kernels' `Layout` and an additive bias.

Handed can be: our lazy mask, nothing (with `is_causal`), a boolean or additive 4-D tensor, or a 2-D padding mask.
"""

from dataclasses import dataclass

import torch
from probe_kernels.mask import Mask, causal, dense
from probe_kernels.types import Layout
from torch import Tensor

from probe.errors import UnsupportedAttentionError
from probe.seam.masks import LazyMask, MaskSpec
from probe.seam.rules import recognise


@dataclass(frozen=True)
class Lie:
    """How one call lies: its layout, the additive part of its mask if any, and whether it is causal."""

    layout: Layout
    bias: Tensor | None
    causal: bool


@dataclass(frozen=True)
class Extent:
    """The lengths of one call and where its queries start, for masks that carry no positions of their own."""

    n_query: int
    n_key: int
    start: int  # storage position of the first query
    device: torch.device

    @property
    def query_pos(self) -> Tensor:
        """Absolute positions of the queries, ``[1, query]``."""
        return torch.arange(self.start, self.start + self.n_query, device=self.device)[None]

    @property
    def key_pos(self) -> Tensor:
        """Absolute positions of the keys: a cache longer than what was seen is static, a shorter one has slid."""
        slid = max(0, self.start + self.n_query - self.n_key)
        return torch.arange(slid, slid + self.n_key, device=self.device)[None]


def lie_of(mask: Tensor | None, extent: Extent, *, is_causal: bool, spec: MaskSpec | None = None) -> Lie:
    """The layout that `mask` means; raises `UnsupportedAttentionError` for a form nobody documents.

    `spec` is what the mask function was asked, where that is known although the mask itself is not lazy.
    """
    if isinstance(mask, LazyMask):
        return _of_spec(mask.spec, mask.rows, mask.keys, extent)
    if spec is not None:
        return _of_spec(spec, slice(0, spec.q_length), slice(0, spec.kv_length), extent)
    if mask is None:
        return _of_nothing(extent, is_causal=is_causal)
    if not isinstance(mask, Tensor):
        raise UnsupportedAttentionError(
            f"attention was given a mask of type {type(mask).__name__}; tensors and None are understood: "
            "observe with mode='fused', or load the model with attn_implementation='sdpa'"
        )
    if mask.ndim == 2:
        whole = _of_nothing(extent, is_causal=is_causal).layout
        real = mask[:, -extent.n_key :].bool()
        return Lie(Layout(whole.mask, whole.query_pos, whole.key_pos, key_real=real), None, is_causal)
    if mask.ndim == 4 and mask.shape[-1] == extent.n_key and mask.shape[-2] in (1, extent.n_query):
        return _of_cells(mask, extent, is_causal=is_causal)
    raise UnsupportedAttentionError(
        f"attention with {extent.n_query} queries and {extent.n_key} keys was given a mask of shape "
        f"{tuple(mask.shape)}; expected [batch, heads, queries, keys]"
    )


def _of_spec(spec: MaskSpec, rows: slice, keys: slice, extent: Extent) -> Lie:
    if keys.stop - keys.start == 1 < extent.n_key:
        return _of_one_key(spec, rows, keys, extent)
    key = (rows.start, rows.stop, keys.start, keys.stop)
    found = spec.memo.get(key)
    if found is None:
        found = spec.memo[key] = _read_spec(spec, rows, keys)
    lie: Lie = found
    n_query, n_key = lie.layout.query_pos.shape[1], lie.layout.key_pos.shape[1]
    if n_query != extent.n_query or n_key != extent.n_key:
        raise UnsupportedAttentionError(
            f"attention with {extent.n_query} queries and {extent.n_key} keys was given a mask for {n_query} "
            f"queries and {n_key} keys; the two must agree"
        )
    return lie


def _of_one_key(spec: MaskSpec, rows: slice, keys: slice, extent: Extent) -> Lie:
    """A mask for one key where there are more counts for all of them, as a dense mask would by broadcasting."""
    cells = spec.dense()[:, 0, rows, keys]
    seen = cells if cells.dtype == torch.bool else cells > torch.finfo(cells.dtype).min / 2
    seen = seen.expand(-1, extent.n_query, extent.n_key)
    return Lie(
        Layout(Mask((dense(seen),)), extent.query_pos, extent.key_pos), None, causal=extent.n_query == 1
    )


def _read_spec(spec: MaskSpec, rows: slice, keys: slice) -> Lie:
    query_pos = torch.arange(rows.start, rows.stop, device=spec.device)[None] + spec.q_offset
    key_pos = torch.arange(keys.start, keys.stop, device=spec.device)[None] + spec.kv_offset
    if spec.use_vmap:
        cells = spec.dense()[:, 0, rows, keys]
        seen = cells if cells.dtype == torch.bool else cells > torch.finfo(cells.dtype).min / 2
        layout = Layout(Mask((dense(seen),)), query_pos, key_pos, key_real=_real(spec.padding, key_pos))
        return Lie(layout, None, causal=False)
    found = recognise(spec.rule, spec)
    padding = [p for p in (spec.padding, *found.padding) if p is not None]
    key_real = None
    for one in padding:
        real = _real(one, key_pos)
        key_real = real if key_real is None else (key_real & real if real is not None else key_real)
    segments = found.segments
    layout = Layout(
        found.mask(),
        query_pos,
        key_pos,
        query_segment=None if segments is None else segments[:, query_pos[0]],
        key_segment=None if segments is None else segments[:, key_pos[0]],
        key_real=key_real,
    )
    # Blocks that a mask opens (images, prefixes) leave the rest causal.
    names = [p.name for p in (*found.all_of, *found.any_of)]
    return Lie(layout, None, causal="causal" in names)


def _real(padding: Tensor | None, positions: Tensor) -> Tensor | None:
    """Which of the positions are real; None where all are. Positions past the padding mask are not real."""
    if padding is None:
        return None
    inside = positions[0] < padding.shape[1]
    real = padding[:, positions[0].clamp_max(padding.shape[1] - 1)].bool() & inside
    return None if bool(real.all()) else real


def _of_nothing(extent: Extent, *, is_causal: bool) -> Lie:
    """No mask: one query sees everything; several with `is_causal` are aligned to the upper left; else all see all."""
    if extent.n_query == 1 or not is_causal:
        return Lie(Layout(Mask(), extent.query_pos, extent.key_pos), None, is_causal)
    query_pos = torch.arange(extent.n_query, device=extent.device)[None]
    key_pos = torch.arange(extent.n_key, device=extent.device)[None]
    return Lie(Layout(Mask((causal(),)), query_pos, key_pos), None, causal=True)


def _of_cells(mask: Tensor, extent: Extent, *, is_causal: bool) -> Lie:
    """A dense mask that somebody else built: its cells decide, positions are those of the cache."""
    if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
        hidden, soft = ~mask, None
    else:
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        soft = mask.masked_fill(hidden, 0.0)
        soft = soft if bool(soft.any()) else None
    if mask.shape[1] != 1:
        # Heads differ: visibility becomes part of the bias, head by head.
        bias = torch.zeros_like(mask, dtype=torch.float32) if soft is None else soft.float()
        bias = bias.masked_fill(hidden, float("-inf"))
        return Lie(Layout(Mask(), extent.query_pos, extent.key_pos), bias, is_causal)
    if mask.shape[2] == 1 and extent.n_query > 1:
        layout = Layout(Mask(), extent.query_pos, extent.key_pos, key_real=~hidden[:, 0, 0])
    else:
        layout = Layout(Mask((dense(~hidden[:, 0]),)), extent.query_pos, extent.key_pos)
    return Lie(layout, soft, is_causal)
