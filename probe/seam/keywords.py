"""The keywords that attention modules pass, honoured or refused by name (transformers' 484 call sites, 5.23)."""

from dataclasses import dataclass
from typing import Any

import torch
from probe_kernels.mask import Predicate, Tile, rule
from torch import Tensor, nn

from probe.errors import UnsupportedAttentionError

# Passed along by models, without effect on the scores (positions are already rotated in, windows already masked).
_WITHOUT_EFFECT = frozenset(
    {
        "position_ids", "cache_position", "position_embeddings", "sliding_window", "output_attentions",
        "output_hidden_states", "output_router_logits", "use_cache", "return_dict", "deterministic", "max_length_q",
        "max_length_k", "cu_seq_lens_q", "cu_seq_lens_k", "num_items_in_batch", "token_type_ids", "mm_token_type_ids",
        "input_ids", "attention_mask", "logits_to_keep", "image_grid_thw", "video_grid_thw", "pixel_values",
        "image_sizes", "bbox", "labels", "past_key_values", "past_key_value", "shared_kv_states", "seq_idx",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What one attention call was told beyond q, k, v and the mask."""

    scaling: float
    is_causal: bool
    softcap: float | None
    sinks: Tensor | None  # [head] or [batch, head, query_pos]
    position_bias: Tensor | None
    keep: Predicate | None  # an indexer's choice of keys


def read_options(module: nn.Module, query: Tensor, dropout: float, keywords: dict[str, Any]) -> Options:
    """Read the keywords of one call; raises `UnsupportedAttentionError` for what cannot be honoured."""
    _refuse(module, dropout, keywords)
    scaling = keywords.get("scaling")
    is_causal = keywords.get("is_causal")
    sinks = keywords.get("s_aux")
    sinks = keywords.get("sinks") if sinks is None else sinks
    indices = keywords.get("indices")
    return Options(
        scaling=float(query.shape[-1] ** -0.5 if scaling is None else scaling),
        is_causal=bool(getattr(module, "is_causal", True) if is_causal is None else is_causal),
        softcap=keywords.get("softcap") or None,
        sinks=_sinks(sinks, query),
        position_bias=keywords.get("position_bias"),
        keep=None if indices is None else _chosen(indices),
    )


_HONOURED = frozenset(
    {
        "scaling",
        "is_causal",
        "softcap",
        "s_aux",
        "sinks",
        "position_bias",
        "indices",
        "block_indices",
        "cache",
        "dropout",
    }
)


def _refuse(module: nn.Module, dropout: float, keywords: dict[str, Any]) -> None:
    name = type(module).__name__
    if keywords.get("cache") is not None:
        raise UnsupportedAttentionError(
            f"{name} was called with a paged cache (continuous batching), which hides its keys; use generate() instead"
        )
    if dropout and module.training:
        raise UnsupportedAttentionError(
            f"{name} was called in training mode with attention dropout {dropout}; statistics would be of a pattern "
            "that no forward repeats: call model.eval() or set the dropout to 0"
        )
    unknown = [
        key
        for key, value in keywords.items()
        if isinstance(value, Tensor) and key not in _WITHOUT_EFFECT and key not in _HONOURED
    ]
    if unknown:
        raise UnsupportedAttentionError(
            f"{name} passed the tensor keyword {unknown[0]!r}, which is not known to be safe to ignore; "
            "please report the model, or use mode='shadow', where the model's own attention computes the output"
        )


def _sinks(sinks: object, query: Tensor) -> Tensor | None:
    """Sink logits as ``[head]``, or ``[batch, head, query_pos]`` where they differ by query."""
    if not isinstance(sinks, Tensor):
        return None
    heads, queries = query.shape[1], query.shape[2]
    if sinks.numel() == heads:
        return sinks.reshape(heads)
    return sinks.reshape(sinks.shape[0], heads, queries)


def _chosen(indices: Tensor) -> Predicate:
    """Only the keys whose storage index an indexer listed for the query: ``indices [batch, query_pos, k]``."""

    def visible(tile: Tile) -> Tensor:
        rows = indices[:, tile.rows].long()
        width = max(tile.keys.stop, int(rows.max()) + 1) if rows.numel() else tile.keys.stop
        kept = torch.zeros(rows.shape[0], rows.shape[1], width + 1, dtype=torch.bool, device=rows.device)
        # Unused slots are marked -1; they land in a column past the last key.
        kept.scatter_(-1, torch.where(rows < 0, width, rows), True)
        return kept[:, :, tile.keys]

    return rule("chosen_by_indexer", visible)


def block_choice(
    module: nn.Module, keywords: dict[str, Any], mask: Tensor | None, query: Tensor, key: Tensor
) -> Tensor:
    """The additive mask of a block indexer, built by the indexer itself (``block_indices``)."""
    build = getattr(getattr(module, "indexer", None), "build_block_mask", None)
    if build is None:
        raise UnsupportedAttentionError(
            f"{type(module).__name__} passed block_indices, but has no indexer that turns them into a mask; "
            "use mode='shadow'"
        )
    positions = keywords.get("position_ids")
    n_query, n_key = query.shape[2], key.shape[2]
    if positions is None:
        positions = torch.arange(n_key - n_query, n_key, device=query.device)
    positions = (positions if positions.ndim > 1 else positions[None]).expand(query.shape[0], -1)
    built: Tensor = build(keywords["block_indices"], mask, n_key, query.dtype, query.device, positions)
    return built
