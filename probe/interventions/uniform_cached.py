"""Uniform attention over every cached key, windows ignored."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from probe_kernels.mask import Predicate, causal, rule
from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.rewriting import rewrite_scores
from probe.interventions.target import Target, Where, name_of
from probe.interventions.widening import joined, rehide, tile_of, widen
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class UniformCached:
    """p := 1 / (number of real cached keys at or before the query) there, whatever the model's mask hides among them.

    No mass stays on a learned sink. Other heads and rows keep the model's own mask.
    """

    target: Target

    @property
    def name(self) -> str:
        """How reports name it; `phase` is always said, since its default is not ``both``."""
        return name_of("uniform_cached", replace(self.target, phase="both"), phase=self.target.phase)

    @property
    def settles(self) -> dict[str, str]:
        """The chosen heads' pattern."""
        return {"pattern": "uniform over cached keys"}

    def control(self, seed: int) -> "UniformCached":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call with every cached key in reach of the chosen heads and rows."""
        rows = self.target.rows_of(call)
        if not self.target.applies(call) or (rows is not None and not bool(rows.any())):
            return call
        return widen(call, _cached(call), self.target.heads_of(call), rows)

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the opened keys from everybody else, and make the chosen rows uniform."""
        if not self.target.applies(call):
            return Edits()
        cached = _cached(call)

        def level(scores: Tensor, rows: slice, keys: slice) -> Tensor:
            later = ~cached.visible(tile_of(call.layout, rows, keys))
            return torch.zeros_like(scores).masked_fill(later[:, None], float("-inf"))

        made = rewrite_scores(self.target, call, level)
        return joined(rehide(call), made) if made.scores else made


def _cached(call: AttentionCall) -> Predicate:
    """Keys at or before the query; every key where queries and keys do not share an axis, or none comes first."""
    if call.causal:
        return causal()
    return rule("every key", lambda tile: tile.key_pos == tile.key_pos)


def uniform_cached(heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]) -> UniformCached:
    """Make rows uniform over every real cached key at or before the query, sliding windows ignored.

    The masking of Wu et al. 2024 (arXiv:2404.15574) as their eager code does it at decoding: scores := 0 after the
    mask. So ``phase`` is ``decode`` if left out. What a sliding cache has dropped is not cached and gets nothing,
    and what a bias of -inf hides stays hidden: where a model hands padding over in one, nothing tells the two apart.

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span or phase that cannot be one.
    """
    return UniformCached(Target.of(heads, {"phase": "decode", **where}))
