"""What crosses the seam: one layer's attention in one forward (`AttentionCall`), or another `Activation`."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Int
from probe_kernels.types import Layout, Scores
from torch import Tensor

from probe.shapes import Pattern

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Place:
    """Where in the model a tensor was seen: the module's own name, its tower, and its layer within the tower."""

    module: str
    tower: str
    layer: int


@dataclass(frozen=True)
class Batch:
    """Which prompts are in one forward, shared by every call of that forward.

    `prompts` numbers the sequences over the life of a run: a KV-cached continuation keeps its number, a new sequence
    takes the next one. `tokens` is None where the model was given embeddings or pixels.
    """

    prompts: tuple[int, ...]
    step: int  # 0 = prefill; t = t-th forward that continued these sequences
    tokens: Int[Tensor, "batch key_token"] | None = (
        None  # every token so far, padding included, on the model's device
    )
    real: Bool[Tensor, "batch key_token"] | None = None  # False = padding; None = no padding
    spans: tuple[dict[str, Bool[Tensor, "_"]], ...] = ()  # per prompt, over its real tokens
    reordered: bool = False  # beams: rows may have swapped since the last step


@dataclass(frozen=True)
class AttentionCall:
    """What one layer's attention was given in one forward, before attention is applied.

    `scores` holds q, k (after RoPE, with the cache, un-repeated over the group), v, scale, softcap, sinks and bias;
    `layout` holds the mask and the absolute storage positions, padding included.
    In the eager fallback the model gave only its weights: then `pattern` is set and `scores` is None.
    """

    place: Place
    batch: Batch
    phase: Phase
    scores: Scores | None
    layout: Layout
    causal: bool  # no query sees a later key, apart from blocks the mask opens (images, prefixes)
    pattern: Pattern | None = None
    options: dict[str, object] = field(default_factory=dict)  # what else the model passed, by keyword

    @property
    def n_heads(self) -> int:
        """Number of query heads of this layer."""
        if self.scores is not None:
            return int(self.scores.query.shape[1])
        return 0 if self.pattern is None else int(self.pattern.shape[1])

    @property
    def n_kv_heads(self) -> int:
        """Number of key/value heads of this layer (query heads in the eager fallback)."""
        return self.n_heads if self.scores is None else int(self.scores.key.shape[1])

    @property
    def size(self) -> tuple[int, int, int]:
        """``(batch, n_query, n_key)`` of this call."""
        if self.scores is not None:
            return self.scores.query.shape[0], self.scores.query.shape[2], self.scores.key.shape[2]
        if self.pattern is None:
            raise ValueError("an AttentionCall needs scores or a pattern")
        return self.pattern.shape[0], self.pattern.shape[2], self.pattern.shape[3]

    @property
    def query_real(self) -> Bool[Tensor, "batch query_pos"]:
        """Rows that count: True where the query is not padding."""
        return _flags(self.layout.query_real, self.size[0], self.size[1], self.layout.query_pos.device)

    @property
    def key_real(self) -> Bool[Tensor, "batch key_pos"]:
        """Keys that count: True where the key is not padding."""
        return _flags(self.layout.key_real, self.size[0], self.size[2], self.layout.key_pos.device)

    @property
    def query_index(self) -> Int[Tensor, "batch query_pos"]:
        """Index of each query among the real tokens of its prompt; -1 for padding. Left padding changes nothing."""
        return self._real_index(self.layout.query_pos, self.query_real)

    @property
    def key_index(self) -> Int[Tensor, "batch key_pos"]:
        """Index of each key among the real tokens of its prompt; -1 for padding. Sliding caches keep true indices.

        Slots of a static cache that no token has filled yet are no tokens: -1 as well.
        """
        filled = self.key_real
        if self.place.tower == "decoder":
            filled = filled & (self.layout.key_pos <= self.layout.query_pos.amax(-1, keepdim=True))
        return self._real_index(self.layout.key_pos, filled)

    def _real_index(self, positions: Tensor, real: Tensor) -> Tensor:
        positions = positions.expand(real.shape[0], -1)
        if self.batch.real is None:
            return positions.masked_fill(~real, -1)
        before = torch.cumsum(self.batch.real.to(torch.int64), dim=1) - 1
        last = positions.masked_fill(~real, -1).max()
        if self.place.tower == "cross" or int(last) >= before.shape[1]:
            return positions.masked_fill(~real, -1)
        return before.gather(1, positions.clamp(0, before.shape[1] - 1)).masked_fill(~real, -1)


def _flags(flags: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    if flags is None:
        return torch.ones(batch, length, dtype=torch.bool, device=device)
    return flags.expand(batch, length)


Point = Literal["resid_pre", "resid_post", "mlp_out", "router_logits", "logits"]


@dataclass(frozen=True)
class Activation:
    """A tensor seen elsewhere than at attention: residual stream, MLP output, router logits or final logits.

    ``value`` is ``[batch, token, d_model]`` (experts or vocabulary in the last axis for router and logits);
    ``start`` is the storage position of its first token.
    """

    place: Place
    batch: Batch
    phase: Phase
    point: Point
    value: Tensor
    start: int = 0
