"""Sharper or flatter rows: final scores multiplied by a number per head, or by one that grows with the row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_scores
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Temperature:
    """s := t·s before the softmax, at visible keys; s is the score after scale, softcap and bias.

    `t` is one number for all heads, or one for each of the target's heads, in their order. With `beta` instead,
    t = 1 + exp(-exp(beta))·log(i) for a row with i visible keys. A learned sink's logit is not multiplied. Paper:
    selective attention (arXiv:2411.12892), position-aware form.
    """

    target: Target
    t: tuple[float, ...] | None
    beta: float | None = None

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("temperature", self.target, t=self.t, beta=self.beta)

    def control(self, seed: int) -> "Temperature":
        """The same factors, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def edits(self, call: AttentionCall) -> Edits:
        """Multiply the scores of the chosen heads and rows."""
        if not self.target.applies(call):
            return Edits()
        factors = self._factors(call)

        def scaled(scores: Tensor, _rows: slice, _keys: slice) -> Tensor:
            hidden = scores == float("-inf")
            if self.beta is None:
                t = torch.tensor(factors, dtype=scores.dtype, device=scores.device)[None, :, None, None]
            else:
                t = _by_position(self.beta, (~hidden).sum(-1, keepdim=True).to(scores.dtype))
            return (t * scores.masked_fill(hidden, 0.0)).masked_fill(hidden, float("-inf"))

        return edit_scores(self.target, call, scaled)

    def _factors(self, call: AttentionCall) -> tuple[float, ...]:
        """The factors of a call's chosen heads; a control's heads take those of the heads that they stand for."""
        if self.t is None or len(self.t) == 1:
            return (self.t or (1.0,)) * len(self.target.heads_of(call))
        here = (call.place.tower, call.place.layer)
        pairs = zip(self.target.heads or (), self.t, strict=True)
        return tuple(t for head, t in pairs if (head.tower, head.layer) == here)


def _by_position(beta: float, visible: Tensor) -> Tensor:
    grown = torch.exp(-torch.exp(torch.tensor(beta, dtype=visible.dtype, device=visible.device)))
    return 1 + grown * visible.clamp_min(1).log()


def temperature(
    t: float | Sequence[float] | None = None,
    heads: Iterable[str | HeadId] | None = None,
    beta: float | None = None,
    **where: Unpack[Where],
) -> Temperature:
    """Multiply final scores by t (above 1 sharpens a row, below 1 flattens it, 0 makes it uniform over visible keys).

    With `beta` the position-aware temperature of selective attention (arXiv:2411.12892): a row with i visible keys is
    multiplied by 1 + exp(-exp(beta))·log(i), so that longer rows are sharpened; a row with one key is untouched.

    Args:
        t: The factor, 0 or more; or one for each of `heads`, in the order in which they are given.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        beta: Position-aware form instead of `t`; any finite number, the smaller the stronger (at most 1 + log i).
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: both or neither of t and beta; a number out of range; several t that match no heads; a head,
            layer, span or phase that cannot be one.
    """
    if (t is None) == (beta is None):
        raise UsageError(f"temperature with t={t!r}, beta={beta!r} was asked; give exactly one of them")
    if beta is not None:
        if not (isinstance(beta, int | float) and abs(beta) < float("inf")):
            raise UsageError(f"temperature with beta={beta!r} was asked; beta must be a finite number")
        return Temperature(Target.of(heads, where), None, float(beta))
    numbers: list[Any] = list(t) if isinstance(t, Sequence) else [t]
    if not numbers or not all(isinstance(one, int | float) and 0 <= one < float("inf") for one in numbers):
        raise UsageError(f"temperature with t={t!r} was asked; each t must be a finite number, 0 or more")
    if len(numbers) == 1:
        return Temperature(Target.of(heads, where), (float(numbers[0]),))
    return _matched([float(one) for one in numbers], heads, where)


def _matched(numbers: list[float], heads: Iterable[str | HeadId] | None, where: Where) -> Temperature:
    """Several factors, sorted as the target sorts its heads."""
    named = heads if heads is None or isinstance(heads, str) else list(heads)
    target = Target.of(named, where)
    order = [one if isinstance(one, HeadId) else HeadId.parse(one) for one in named or ()]
    if len(order) != len(numbers) or len(set(order)) != len(order):
        raise UsageError(
            f"temperature with {len(numbers)} values of t and {len(order)} heads ({len(set(order))} different) was "
            "asked; give one t, or one for each head"
        )
    factor = dict(zip(order, numbers, strict=True))
    return Temperature(target, tuple(factor[head] for head in target.heads or ()))
