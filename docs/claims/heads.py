"""The model of the claims, its retrieval heads, and count-matched controls with their own retrieval scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pages import write

import probe
from probe.analysis.ablation.controls import draw_controls
from probe.analysis.ready import ready
from probe.experiments.retrieval_answer import RETRIEVAL_HEAD
from probe.models import LoadedModel
from probe.terms import HeadId

STORED = Path(__file__).parent / "results" / "retrieval.json"
PER_LAYER = 4  # heads of one layer that are chosen at most: of nine, as many others are left for a control


@cache
def subject() -> LoadedModel:
    """SmolLM2-135M-Instruct in float32, in evaluation mode."""
    loaded = probe.load("smollm2-135m", dtype="float32")
    loaded.model.eval()
    return loaded


@cache
def retrieval_scores() -> dict[str, float]:
    """The retrieval score of every head, by the defaults of ``probe analyze --metric retrieval``.

    It is measured once and stored, since several claims need it: delete the file to measure it again.
    """
    if not STORED.is_file():
        found = probe.analyze(subject(), "unused", metrics=["retrieval"], seed=0)
        write(
            STORED,
            json.dumps({"metric": "retrieval", "seed": 0, "scores": by_head(found["retrieval"])}, indent=1),
        )
    scores: dict[str, float] = json.loads(STORED.read_text(encoding="utf-8"))["scores"]
    return scores


def by_head(values: Any) -> dict[str, float]:
    """A head map (layer, head) as numbers by name."""
    return {
        str(HeadId("decoder", int(layer), int(head))): float(values.sel(layer=layer, head=head))
        for layer in values.coords["layer"].values
        for head in values.coords["head"].values
    }


def highest(scores: Mapping[str, float], count: int) -> list[str]:
    """The `count` heads with the highest scores, at most `PER_LAYER` of one layer."""
    best: list[str] = []
    for head in sorted(scores, key=lambda name: -scores[name]):
        if sum(layer_of(other) == layer_of(head) for other in best) < PER_LAYER:
            best.append(head)
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
    def of(cls, one: Any, chosen: Sequence[str], count: int) -> "Controls":
        """`count` controls of an intervention on `chosen` heads; raises `RuntimeError` where they are no fair ones."""
        ready([one], subject())  # the first use finds out how many heads a layer has
        drawn, notes = draw_controls([one], subject(), count, 0)
        if len(drawn) != count:
            raise RuntimeError(f"{count} controls of {one.name} were asked: {'; '.join(notes)}")
        for control in drawn:
            require_matched(chosen, control.heads)
        return cls(tuple(control.seed for control in drawn), tuple(control.heads for control in drawn))

    def told(self, scores: Mapping[str, float]) -> list[str]:
        """Lines that say which heads the controls are, and how much retrieval is among them."""
        lines = []
        for seed, heads in zip(self.seeds, self.heads, strict=True):
            own = np.asarray([scores[head] for head in heads])
            strong = sum(own >= RETRIEVAL_HEAD)
            lines.append(
                f"- Control {seed}: {', '.join(heads)}; retrieval scores: mean {own.mean():.2f}, highest "
                f"{own.max():.2f}, {strong} of {len(own)} at or above {RETRIEVAL_HEAD}."
            )
        return lines


def require_matched(chosen: Sequence[str], others: Sequence[str]) -> None:
    """Raise `RuntimeError` unless `others` are as many heads of each layer, and none of `chosen`."""
    counts = [sorted(layer_of(head) for head in heads) for heads in (chosen, others)]
    if counts[0] != counts[1] or set(chosen) & set(others):
        raise RuntimeError(f"{', '.join(others)} is no matched control of {', '.join(chosen)}")
