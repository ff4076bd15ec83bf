"""Peaks of WAAD and FAI over responses, for a model's local and global heads and for as many random ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.experiments.forwards import watch
from probe.experiments.responses import stretch
from probe.experiments.rhythm_coupling import peaks
from probe.experiments.rhythm_signals import GroupSignals, HeadDistance, Heads
from probe.metrics.local_global import LocalGlobal
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.work import Work

FRACTION, WINDOW, BAND = 0.3, 10, (10, 100)  # the paper's
QUANTILES = (
    0.8,
    0.7,
    0.9,
)  # that a peak must reach; the paper gives none, the first is the default of `rhythm`
SEEDS = 3  # random pairs of groups


@dataclass(frozen=True)
class Peaks:
    """Flags over the tokens of one response whose FAI is defined, for one pair of groups and one quantile."""

    waad: np.ndarray
    fai: np.ndarray


def rhythm_peaks(work: Work, prompts: Sequence[Prompt], *, sink: bool = True) -> list[list[list[Peaks]]]:
    """Peaks by prompt, by pair of groups (the model's own, then `SEEDS` random ones) and by quantile.

    `sink` false leaves the first token out of the distance by which heads are grouped.
    """
    kind = "" if sink else ", first token left out"
    grids = [work.keep(f"{one.id}: distances{kind}", _distances, work.model, one, sink) for one in prompts]
    total, weight = np.asarray(grids, np.float64).sum(0)
    pairs = _pairs(LocalGlobal(FRACTION).finish(total / weight), work.seed)
    found = []
    for prompt in prompts:
        count, rows = work.keep(f"{prompt.id}: peaks{kind}", _peaks, work.model, prompt, pairs)
        found.append([[Peaks(*(_flags(count, at) for at in both)) for both in pair] for pair in rows])
    return found


def _distances(loaded: LoadedModel, prompt: Prompt, sink: bool) -> list[np.ndarray]:
    """Totals and weights of every head, ``[layer, head]`` each."""
    observer = HeadDistance(*stretch(prompt), sink=sink)
    watch(loaded, prompt, [observer])
    layers = sorted(observer.total)
    return [np.stack([of[layer].numpy() for layer in layers]) for of in (observer.total, observer.weight)]


def _pairs(group: np.ndarray, seed: int) -> list[tuple[Heads, Heads]]:
    """Local and global heads, and as many others drawn at random from all heads, by layer."""
    near, far = (np.flatnonzero(group.ravel() == sign) for sign in (-1, 1))
    numbers = [(near, far)]
    for draw in range(SEEDS):
        order = np.random.default_rng([seed, draw]).permutation(group.size)
        numbers.append((order[: near.size], order[near.size : near.size + far.size]))
    width = group.shape[1]
    return [(_by_layer(one, width), _by_layer(other, width)) for one, other in numbers]


def _by_layer(numbers: np.ndarray, width: int) -> Heads:
    layers, heads = np.divmod(np.sort(numbers), width)
    return {int(layer): heads[layers == layer].tolist() for layer in np.unique(layers)}


def _peaks(loaded: LoadedModel, prompt: Prompt, pairs: Sequence[tuple[Heads, Heads]]) -> Any:
    """Number of tokens, and by pair and quantile where WAAD and where FAI peaks, in one forward."""
    observers = [GroupSignals(*pair, WINDOW, BAND, len(prompt)) for pair in pairs]
    watch(loaded, prompt, observers)
    rows, count = [], 0
    for one in observers:
        waad, fai = one.waad(*stretch(prompt)), one.fai(*stretch(prompt))
        count = int((~np.isnan(fai)).sum())  # the last tokens have none
        rows.append([[np.flatnonzero(peaks(each[:count], q)) for each in (waad, fai)] for q in QUANTILES])
    return count, rows


def _flags(count: int, at: Sequence[int]) -> np.ndarray:
    flags = np.zeros(count, dtype=bool)
    flags[list(at)] = True
    return flags
