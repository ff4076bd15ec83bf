"""Uniform attention over what a query sees: a head that no longer chooses."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from probe_kernels.types import Edits

from probe.interventions.rewriting import rewrite_scores
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class UniformPast:
    """p := 1 / (number of visible keys) at every visible key of the chosen heads and rows; no mass on a learned sink.

    Paper: AttentionInfluence (arXiv:2505.07293); with ``phase="decode"`` the masking of retrieval heads by q := 0
    (Wu et al. 2024, arXiv:2404.15574).
    """

    target: Target

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("uniform_past", self.target)

    @property
    def settles(self) -> dict[str, str]:
        """The chosen heads' pattern."""
        return {"pattern": "uniform over visible keys"}

    def control(self, seed: int) -> "UniformPast":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Every visible score made the same, after bias and softcap."""
        if not self.target.applies(call):
            return Edits()
        return rewrite_scores(self.target, call, lambda scores, _rows, _keys: torch.zeros_like(scores))


def uniform_past(heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]) -> UniformPast:
    """Make rows of a pattern uniform over their visible keys (the model's own mask, its windows included).

    Without position bias and learned sinks this is q := 0. Masking of AttentionInfluence (arXiv:2505.07293), which
    leaves the causal mask unstated; in its flash form that of Wu et al. 2024 (arXiv:2404.15574) with
    ``phase="decode"``. Their form over every cached key is `uniform_cached`.

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span or phase that cannot be one.
    """
    return UniformPast(Target.of(heads, where))
