"""Ranking documents by heads: by the best, by all, and by as many random ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probe.experiments.qr_scores import gold_rank, summed_scores
from probe.experiments.query_rows import Example

Head = tuple[int, int]  # layer, head

_DRAWS = 20


@dataclass(frozen=True)
class Found:
    """One example, what its heads see of its tokens (layer -> [head, token]), and its part of the data."""

    example: Example
    calibrated: dict[int, np.ndarray]
    part: str


def best_first(head_map: xr.DataArray) -> list[Head]:
    """Heads by their score, the best first; equal ones in the order of the model."""
    values = head_map.values.ravel()
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(-values[known], kind="stable")]
    layers, heads = head_map["layer"].values, head_map["head"].values
    return [(int(layers[at // len(heads)]), int(heads[at % len(heads)])) for at in order]


def ranked(found: Sequence[Found], by: dict[str, list[Head]], drop: float) -> dict[str, xr.DataArray]:
    """Scores of documents and the right one's rank, by each list of heads."""
    most = max(len(one.example.documents) for one in found)
    extra = {}
    for name, heads in by.items():
        grid, ranks = np.full((len(found), most), np.nan), []
        for row, one in enumerate(found):
            scores = summed_scores(one.calibrated, heads, one.example, drop)
            grid[row, : len(scores)] = scores
            ranks.append(float(gold_rank(scores, one.example.gold)))
        coords = _labels(found)
        extra[f"documents{name}"] = xr.DataArray(
            grid, dims=("prompt", "document"), coords={**coords, "document": np.arange(most)}
        )
        extra[f"rank{name}"] = xr.DataArray(ranks, dims=("prompt",), coords=coords)
    return extra


def random_ranks(
    found: Sequence[Found], order: Sequence[Head], count: int, drop: float, seed: int
) -> xr.DataArray:
    """Mean rank of the right document over draws of `count` heads outside the best ones; NaN where none is left."""
    generator, others = np.random.default_rng(seed), order[count:]
    ranks = np.full(len(found), np.nan)
    if others:
        draws = [generator.choice(len(others), min(count, len(others)), replace=False) for _ in range(_DRAWS)]
        for row, one in enumerate(found):
            scores = [
                summed_scores(one.calibrated, [others[at] for at in draw], one.example, drop)
                for draw in draws
            ]
            ranks[row] = np.mean([gold_rank(score, one.example.gold) for score in scores])
    return xr.DataArray(ranks, dims=("prompt",), coords=_labels(found))


def _labels(found: Sequence[Found]) -> dict[str, object]:
    names = [one.example.id for one in found]
    return {"prompt": names, "part": ("prompt", [one.part for one in found])}
