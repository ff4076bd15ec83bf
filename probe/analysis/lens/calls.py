"""From cached tensors to attention calls: scores where cached q and k give the cached pattern, else the pattern."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from probe_kernels import pattern_block
from probe_kernels.mask import Mask, Predicate, causal, dense, within
from probe_kernels.types import Layout, Scores
from torch import Tensor

from probe.analysis.lens.cached import KEY, PATTERN, QUERY, VALUE, Cached, heads_first
from probe.errors import InputError
from probe.seam.call import AttentionCall, Batch, Place

_ROWS = 16  # rows of a pattern that a call is held against
_CLOSE = 1e-3  # largest difference of a probability; caches in half precision round by more
_CLOSE_HALF = 2e-2


@dataclass(frozen=True)
class Reading:
    """A layer's call, and what a reader of its numbers must know."""

    call: AttentionCall
    note: str | None = None


def read_layer(cached: Cached, layer: int, batch: Batch) -> Reading | None:
    """The call of one layer; None where nothing of its attention is cached.

    q, k and v are used where they, with the scale and mask that the model's configuration tells, give the cached
    pattern (or where no pattern is cached to hold them against); else the cached pattern is.

    Raises:
        InputError: q without k or v and no pattern, or q before its rotation and no pattern.
    """
    pattern = cached.get(layer, PATTERN)
    query, key, value = (cached.get(layer, hooks) for hooks in (QUERY, KEY, VALUE))
    if query is None or key is None or value is None:
        if pattern is None:
            if query is None and key is None and value is None:
                return None
            raise InputError(
                f"layer {layer} was to be read; the cache holds no pattern and not all of q, k and v: keep "
                f"blocks.{layer}.attn.hook_pattern, or hook_q, hook_k and hook_v, in names_filter"
            )
        return Reading(
            _of_pattern(layer, pattern, batch), "read from cached patterns: q, k and v are not cached"
        )
    parts = (heads_first(query), heads_first(key), heads_first(value))
    for scale, softcap, window in _rules(cached, layer, parts[0].shape[-1]):
        call = _of_scores(layer, Scores(*parts, scale, softcap), window, batch, _is_causal(cached))
        if pattern is None:
            _require_positions(cached, layer)
            return Reading(call, "q and k could not be held against patterns, which are not cached")
        if _agrees(call, pattern):
            return Reading(call)
    if pattern is None:
        return None
    note = "read from cached patterns: q and k alone do not give them (a position bias, a learned sink or padding)"
    return Reading(_of_pattern(layer, pattern, batch), note)


def _rules(cached: Cached, layer: int, d_head: int) -> Iterator[tuple[float, float | None, int | None]]:
    """Scale, softcap and window that the configurations tell, the likeliest first."""
    lens, text = cached.config, _text_config(cached)
    scalar = getattr(text, "query_pre_attn_scalar", None)
    stated = getattr(lens, "attn_scale", None)
    scales = [scalar**-0.5] if isinstance(scalar, int | float) and scalar > 0 else []
    scales += [1.0 / stated] if isinstance(stated, int | float) and stated > 0 else []
    scales += [d_head**-0.5, 1.0]
    softcap = getattr(lens, "attn_scores_soft_cap", None)
    softcap = float(softcap) if isinstance(softcap, int | float) and softcap > 0 else None
    windows = _windows(lens, text, layer)
    for scale in dict.fromkeys(scales):
        for window in windows:
            yield float(scale), softcap, window


def _windows(lens: Any, text: Any, layer: int) -> list[int | None]:
    kinds = getattr(text, "layer_types", None) or getattr(lens, "attn_types", None)
    width = getattr(text, "sliding_window", None) or getattr(lens, "window_size", None)
    if not isinstance(width, int) or width <= 0:
        return [None]
    if kinds is not None and layer < len(kinds):
        local = str(kinds[layer]) in ("sliding_attention", "local")
        return [width, None] if local else [None, width]
    return [width, None]


def _text_config(cached: Cached) -> Any:
    config: Any = getattr(getattr(cached.model, "original_model", None), "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _is_causal(cached: Cached) -> bool:
    return str(getattr(cached.config, "attention_dir", "causal")) == "causal"


def _require_positions(cached: Cached, layer: int) -> None:
    """Refuse q and k that lack what the model adds to the score, where no pattern tells it either."""
    kind = str(getattr(cached.config, "positional_embedding_type", ""))
    rotated = cached.get(layer, QUERY[:1]) is not None and cached.get(layer, KEY[:1]) is not None
    if (kind == "rotary" and not rotated) or kind in ("alibi", "shortformer", "relative_positional_bias"):
        raise InputError(
            f"layer {layer} was to be read; its positions ({kind}) are not in the cached q and k: keep "
            f"blocks.{layer}.attn.hook_pattern (or hook_rot_q and hook_rot_k) in names_filter"
        )


def _of_scores(
    layer: int, scores: Scores, window: int | None, batch: Batch, is_causal: bool
) -> AttentionCall:
    n = scores.query.shape[2]
    at = torch.arange(n, device=scores.query.device)[None]
    rules: tuple[Predicate, ...] = (causal(),) if is_causal else ()
    if window is not None:
        rules = (*rules, within(window))
    return AttentionCall(
        _place(layer, is_causal), batch, "prefill", scores, Layout(Mask(rules), at, at), causal=is_causal
    )


def _of_pattern(layer: int, pattern: Tensor, batch: Batch) -> AttentionCall:
    weights = pattern.float()
    n_query, n_key = weights.shape[2:]
    seen = (weights > 0).any(1)  # nobody tells which keys were visible: those that got any mass from any head
    query_pos = torch.arange(n_key - n_query, n_key, device=weights.device)[None]
    key_pos = torch.arange(n_key, device=weights.device)[None]
    is_causal = not bool(torch.triu(weights[:, :, :, n_key - n_query :], 1).any())
    layout = Layout(Mask((dense(seen),)), query_pos, key_pos)
    return AttentionCall(
        _place(layer, is_causal), batch, "prefill", None, layout, causal=is_causal, pattern=weights
    )


def _agrees(call: AttentionCall, pattern: Tensor) -> bool:
    """Whether the call gives the cached pattern, on rows spread over the prompt."""
    if call.scores is None or pattern.shape[2:] != call.size[1:]:
        return False
    close = _CLOSE if pattern.dtype in (torch.float32, torch.float64) else _CLOSE_HALF
    n_query, n_key = call.size[1:]
    step = max(1, n_query // _ROWS)
    for row in range(n_query - 1, -1, -step):
        mine = pattern_block(call.scores, call.layout, slice(row, row + 1), slice(0, n_key))
        if not bool(((mine.float() - pattern[:, :, row : row + 1].float()).abs() < close).all()):
            return False
    return True


def _place(layer: int, is_causal: bool) -> Place:
    return Place(f"blocks.{layer}.attn", "decoder" if is_causal else "encoder", layer)
