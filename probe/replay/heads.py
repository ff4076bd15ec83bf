"""Heads chosen by a score, and count-matched controls: as many other heads of the same layers, drawn with a seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.analysis.ablation.controls import draw_controls
from probe.analysis.ready import ready
from probe.errors import UsageError
from probe.experiments.retrieval_split import RETRIEVAL_HEAD
from probe.models import LoadedModel
from probe.terms import HeadId


def by_head(values: Any) -> dict[str, float]:
    """A head map (layer, head) as numbers by name, heads without a value left out."""
    found = {
        str(HeadId("decoder", int(layer), int(head))): float(values.sel(layer=layer, head=head))
        for layer in values.coords["layer"].values
        for head in values.coords["head"].values
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def highest(scores: Mapping[str, float], count: int) -> list[str]:
    """The `count` heads with the highest scores, at most half of a layer's, so that a control has as many left."""
    heads = Counter(layer_of(name) for name in scores)
    taken: Counter[int] = Counter()
    best: list[str] = []
    for name in sorted(scores, key=lambda name: -scores[name]):
        layer = layer_of(name)
        if taken[layer] < heads[layer] // 2:
            taken[layer] += 1
            best.append(name)
    return best[:count]


def layer_of(head: str) -> int:
    """The layer of a head that is named like ``L18.H6``."""
    return HeadId.parse(head).layer


@dataclass(frozen=True)
class Controls:
    """Controls of one intervention: different draws, none of them with a head that is edited."""

    seeds: tuple[int, ...]
    heads: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls, one: Any, chosen: Sequence[str], count: int, loaded: LoadedModel, seed: int = 0
    ) -> "Controls":
        """`count` controls of an intervention on `chosen` heads, drawn with seeds from `seed` on.

        Raises `UsageError` where there are not so many fair ones.
        """
        ready([one], loaded)  # the first use finds out how many heads a layer has
        drawn, notes = draw_controls([one], loaded, count, seed)
        if len(drawn) != count:
            raise UsageError(
                f"{count} controls of {one.name} were asked; {'; '.join(notes)}: choose fewer heads"
            )
        for control in drawn:
            require_matched(chosen, control.heads)
        return cls(tuple(control.seed for control in drawn), tuple(control.heads for control in drawn))

    def told(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Lines that say which heads the controls are, and how much retrieval is among them."""
        lines = []
        for seed, heads in zip(self.seeds, self.heads, strict=True):
            own = np.asarray([scores.get(head, 0.0) for head in heads])
            strong = sum(own >= RETRIEVAL_HEAD)
            lines.append(
                f"Control {seed}: {', '.join(heads)}; retrieval scores: mean {own.mean():.2f}, highest "
                f"{own.max():.2f}, {strong} of {len(own)} at or above {RETRIEVAL_HEAD}."
            )
        return tuple(lines)


def require_matched(chosen: Sequence[str], others: Sequence[str]) -> None:
    """Raise `UsageError` unless `others` are as many heads of each layer, and none of `chosen`."""
    counts = [sorted(layer_of(head) for head in heads) for heads in (chosen, others)]
    if counts[0] != counts[1] or set(chosen) & set(others):
        raise UsageError(
            f"{', '.join(others)} were drawn as a control of {', '.join(chosen)}; they are not as many others of the "
            "same layers"
        )
