"""From the arguments of an attention function to an `AttentionCall`."""

from dataclasses import replace
from typing import Any

from probe_kernels.mask import Mask
from probe_kernels.types import Scores
from torch import Tensor, nn

from probe.seam.call import AttentionCall, Batch, Place
from probe.seam.forwards import Forward, Forwards
from probe.seam.keywords import Options, block_choice, read_options
from probe.seam.layouts import Extent, Lie, lie_of
from probe.seam.masks import MaskSpec

_TEXT = ("decoder", "encoder", "cross")


def build_call(
    module: nn.Module,
    qkv: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    keywords: dict[str, Any],
    where: tuple[Place, Forwards],
    spec: MaskSpec | None = None,
) -> AttentionCall:
    """One layer's call; `spec` is the mask request where the mask itself does not carry it."""
    place, forwards = where
    query, key, value = qkv
    options = read_options(module, query, float(keywords.get("dropout") or 0.0), keywords)
    if keywords.get("block_indices") is not None:
        dense = None if mask is None else mask.detach().clone()
        mask = block_choice(module, keywords, dense, query, key)
    forward = forwards.current
    batch = batch_for(place, forwards, query.shape[0])
    extent = Extent(query.shape[2], key.shape[2], _start(place, forward, query, key), query.device)
    lie = lie_of(mask, extent, is_causal=options.is_causal and place.tower != "cross", spec=spec)
    if place.tower == "cross":  # masks over encoder states do not say where the decoder is
        lie = replace(lie, layout=replace(lie.layout, query_pos=extent.query_pos))
    lie = _aligned(lie, place, batch, forward)
    layout = lie.layout
    if options.keep is not None:
        layout = replace(layout, mask=Mask((*layout.mask.all_of, options.keep), layout.mask.any_of))
    scores = Scores(
        query,
        key,
        value,
        scale=options.scaling,
        softcap=options.softcap,
        sinks=options.sinks,
        bias=_bias(options, lie, key.shape[2]),
    )
    phase = forward.phase if forward is not None and place.tower in ("decoder", "cross") else "prefill"
    return AttentionCall(place, batch, phase, scores, layout, causal=lie.causal, options=keywords)


def _bias(options: Options, lie: Lie, n_key: int) -> Tensor | None:
    if options.position_bias is None:
        return lie.bias
    bias = options.position_bias[..., :n_key]
    return bias if lie.bias is None else bias + lie.bias


def _start(place: Place, forward: Forward | None, query: Tensor, key: Tensor) -> int:
    """Storage position of the first query, for masks that do not say."""
    if forward is None or place.tower not in ("decoder", "cross"):
        return 0
    if place.tower == "cross":
        return forward.start
    # A layer that was given only the last queries (shared key/value layers in prefill) starts later.
    return max(forward.start, key.shape[2] - query.shape[2] if forward.start == 0 else forward.start)


def batch_for(place: Place, forwards: Forwards, width: int) -> Batch:
    """The sequences that the rows of a call belong to; rows that are not prompts (images) get numbers of their own."""
    forward = forwards.current
    if forward is None:
        return Batch(tuple(range(width)), 0)
    batch = forward.batch
    if place.tower == "encoder" and forward.encoder is not None:
        batch = forward.encoder
    if place.tower in _TEXT and len(batch.prompts) == width:
        return batch
    chunk = forward.calls_in_entry.get((place.module, forward.entries.get(place.module, 0)), 0)
    return Batch(forwards.images(place.tower, chunk, width), batch.step)


def _aligned(lie: Lie, place: Place, batch: Batch, forward: Forward | None) -> Lie:
    """Say which queries are real, and put cross-attention's keys on an axis of their own."""
    layout = lie.layout
    if layout.query_real is not None:
        return lie
    real = batch.real
    if real is None or place.tower not in _TEXT:
        if place.tower == "encoder" and layout.key_real is not None:
            return _with_real(lie, layout.key_real, layout.query_pos.shape[1])
        return lie
    positions = layout.query_pos[0]
    inside = (positions < real.shape[1]) & (positions >= 0)
    rows = real[:, positions.clamp(0, real.shape[1] - 1)] & inside
    if layout.key_real is None and place.tower == "encoder" and layout.key_pos.shape[1] == real.shape[1]:
        layout = replace(layout, key_real=real)
    return replace(lie, layout=replace(layout, query_real=rows))


def _with_real(lie: Lie, real: Tensor, n_query: int) -> Lie:
    if real.shape[1] != n_query:
        return lie
    return replace(lie, layout=replace(lie.layout, query_real=real))
