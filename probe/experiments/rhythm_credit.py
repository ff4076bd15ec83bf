"""Credit of tokens by the rhythm of attention: which tokens plan, which anchor, and what weight each gets."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from probe.errors import UnknownNameError, UsageError

_SLACK = 1e-9  # so that 0.4 of 10 tokens is 4

Signal = Float[np.ndarray, "token"]
Flags = Bool[np.ndarray, "token"]


@dataclass(frozen=True)
class Rule:
    """How signals become weights and peaks: the paper gives `gain`, `share` and a range of `k`, not the others.

    Attributes:
        gain: weight g of a chosen token, above 0 (the paper's: 1.5); every other token has weight 1.
        share: share of tokens that are chosen, in (0, 1] (the paper's: 0.4).
        a: share of a dominated anchor's extra credit that its introducing token gets, in [0, 1].
        k: how many tokens back an introducing token may lie, 1 or more (the paper tries 1, 2, 3).
        tau_w: quantile of WAAD up to which an anchor may be dominated, in [0, 1].
        tau_delta: quantile of Δ that an introducing token must reach, in [0, 1].
        peak: quantile that a local maximum must reach to count as a peak, in [0, 1].

    Raises:
        UsageError: a value out of range.
    """

    gain: float = 1.5
    share: float = 0.4
    a: float = 0.5
    k: int = 2
    tau_w: float = 0.5
    tau_delta: float = 0.6
    peak: float = 0.8

    def __post_init__(self) -> None:
        within = {"a": self.a, "tau_w": self.tau_w, "tau_delta": self.tau_delta, "peak": self.peak}
        for name, value in within.items():
            _require(0.0 <= value <= 1.0, name, value, "0 to 1")
        _require(0.0 < self.share <= 1.0, "share", self.share, "more than 0, at most 1")
        _require(0.0 < self.gain < np.inf, "gain", self.gain, "a number above 0")
        _require(self.k >= 1, "k", self.k, "a whole number from 1")

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read ``name=value`` pairs joined by ``;``, as in ``gain=2;share=0.2``; an empty text is the default.

        Raises:
            UnknownNameError: a name that is no field.
            UsageError: something else than ``name=number``, or a value out of range.
        """
        values: dict[str, float] = {}
        for item in filter(None, text.split(";")):
            name, equals, number = item.partition("=")
            if name not in _NAMES:
                raise UnknownNameError.of("part of rule", name, _NAMES)
            try:
                values[name] = float(number) if equals else np.nan
            except ValueError:
                values[name] = np.nan
            if np.isnan(values[name]):
                raise UsageError(f"rhythm: rule has {item!r}; write name=number, joined by ;")
        whole = values.pop("k", cls.k)
        _require(float(whole).is_integer(), "k", whole, "a whole number from 1")
        return cls(**values, k=int(whole))

    def __str__(self) -> str:
        return ", ".join(f"{one.name}={getattr(self, one.name):g}" for one in fields(self))


_NAMES = tuple(one.name for one in fields(Rule))


def _require(good: bool, name: str, value: float, allowed: str) -> None:
    if not good:
        raise UsageError(f"rhythm: {name} was {value:g}; allowed is {allowed}")


def change(waad: Signal) -> Signal:
    """Δ_t = |WAAD_t − WAAD_{t+1}| in tokens; NaN at the last token, which nothing follows."""
    following = np.append(waad[1:], np.nan)[: len(waad)]
    return np.asarray(np.abs(waad - following))


def highest(values: Signal, share: float) -> Flags:
    """The highest `share` of the defined values, rounded down; of equal ones the earlier are taken."""
    order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
    count = int(np.floor(share * int((~np.isnan(values)).sum()) + _SLACK))
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def credit(waad: ArrayLike, fai: ArrayLike, rule: Rule | None = None) -> Mapping[str, Signal]:
    """Credit weights γ per token, 1 or more for a gain of 1 or more: ``local``, ``global`` and ``coupled``.

    With g the gain, Δ_t = |WAAD_t − WAAD_{t+1}|, P the highest share by Δ and G the highest share by FAI::

        local    1 + (g−1)·1{P}
        global   1 + (g−1)·1{G}
        coupled  1 + (g−1)·1{G∖D} + (1−a)(g−1)·1{D} + a(g−1)·1{intro(D)}

    D are the anchors of G that are locally dominated: WAAD_t at or below its `tau_w` quantile, and a Δ of the k tokens
    before at or above its `tau_delta` quantile; intro(D) are the tokens with that Δ (of equal ones the nearest). Both
    thresholds and `a` are not given in the paper. Undefined signals (NaN) choose nothing: these tokens keep weight 1
    unless they introduce one. The paper multiplies advantages of both signs by γ, without gradient.

    Li et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm", 2025.

    Args:
        waad: windowed average attention distance of the local heads, per response token.
        fai: future attention influence of the global heads, per response token; NaN where no query is in its horizon.
        rule: gain, shares and thresholds; the paper's where it gives them, if left out.

    Raises:
        UsageError: the two differ in length, or have more than one axis.
    """
    near, far = np.asarray(waad, dtype=np.float64), np.asarray(fai, dtype=np.float64)
    if near.shape != far.shape or near.ndim != 1:
        raise UsageError(
            f"credit was asked for signals of shapes {near.shape} and {far.shape}; give one number per token in each"
        )
    rule = rule or Rule()
    extra = rule.gain - 1.0
    delta = change(near)
    anchors = highest(far, rule.share)
    dominated, introduced = _dominated(near, delta, anchors, rule)
    coupled = 1.0 + extra * (anchors & ~dominated) + (1.0 - rule.a) * extra * dominated
    return {
        "local": 1.0 + extra * highest(delta, rule.share),
        "global": 1.0 + extra * anchors,
        "coupled": coupled + rule.a * extra * introduced,
    }


def _dominated(waad: Signal, delta: Signal, anchors: Flags, rule: Rule) -> tuple[Flags, Flags]:
    """The anchors that are locally dominated, and the tokens that introduce them."""
    dominated, introduced = np.zeros_like(anchors), np.zeros_like(anchors)
    if np.isnan(waad).all() or np.isnan(delta).all():
        return dominated, introduced
    near, steep = np.nanquantile(waad, rule.tau_w), np.nanquantile(delta, rule.tau_delta)
    for token in np.flatnonzero(anchors & (waad <= near)):
        before = delta[max(0, token - rule.k) : token][::-1]
        if before.size and np.nanmax(before, initial=-np.inf) >= steep:
            dominated[token] = True
            introduced[token - 1 - int(np.nanargmax(before))] = True
    return dominated, introduced
