"""From the outcomes of needle tests to one labelled answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probe.experiments.aligning import Alignment, alignment_notes
from probe.experiments.retrieval_split import RETRIEVAL_HEAD, activity, shares_line
from probe.metrics.base import MetricInfo
from probe.models import LoadedModel
from probe.report.answer import Answer


@dataclass(frozen=True)
class Outcome:
    """What one needle test gave: did the model find the needle, and which heads copied it (by layer)."""

    id: str
    length: int
    depth: float
    recall: float  # ROUGE-1 recall of the answer
    counted: bool
    alignment: Alignment  # whether the answer's tokens were found in the prompt
    response: str
    scores: dict[int, np.ndarray]
    heads: dict[int, int]


def retrieval_answer(
    info: MetricInfo, spec: str, outcomes: Sequence[Outcome], notes: Sequence[str]
) -> Answer:
    """Mean score over counted tests (NaN where none counts), values per test, how often heads copy, and the grids.

    `extra` holds what `activity` gives; ``gate`` (length, depth): share of tests passed; ``top_head`` (length, depth):
    mean score, over the counted tests of the cell, of the head that is best overall.
    """
    n_heads = {layer: n for outcome in outcomes for layer, n in outcome.heads.items()}
    layers = sorted(n_heads)
    shape = (len(layers), max(n_heads.values(), default=0))
    counted = [outcome for outcome in outcomes if outcome.counted]
    tests = np.full((len(counted), *shape), np.nan)
    for number, outcome in enumerate(counted):
        for layer, scores in outcome.scores.items():
            tests[number, layers.index(layer), : len(scores)] = scores
    coords = {
        "layer": np.array(layers, dtype=np.int64),
        "head": np.arange(shape[1], dtype=np.int64),
        "n_heads": ("layer", np.array([n_heads[layer] for layer in layers], dtype=np.int64)),
    }
    mean = tests.mean(0) if counted else np.full(shape, np.nan)
    grid = (sorted({one.length for one in outcomes}), sorted({one.depth for one in outcomes}))
    active = activity(tests, [(one.length, one.depth) for one in counted], grid, coords)
    by_test = xr.DataArray(
        tests, dims=("prompt", "layer", "head"), coords={"prompt": [one.id for one in counted], **coords}
    )
    return _answer(
        info,
        spec,
        xr.DataArray(mean, dims=("layer", "head"), coords=coords),
        by_test if counted else None,
        {
            **active,
            "gate": _grid(outcomes, [float(one.counted) for one in outcomes]),
            "top_head": _grid(outcomes, _top_scores(outcomes, tests, mean)),
        },
        [*_lines(outcomes, mean), *([shares_line(active["shares"])] if counted else []), *notes],
    )


def not_applicable(info: MetricInfo, spec: str, model: LoadedModel, reason: str) -> Answer:
    """NaN for every head that the configuration states, and why."""
    config: Any = getattr(model.model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    shape = tuple(int(getattr(text, name, 0) or 0) for name in ("num_hidden_layers", "num_attention_heads"))
    coords = {
        "layer": np.arange(shape[0], dtype=np.int64),
        "head": np.arange(shape[1], dtype=np.int64),
        "n_heads": ("layer", np.full(shape[0], shape[1], dtype=np.int64)),
    }
    head_map = xr.DataArray(np.full(shape, np.nan), dims=("layer", "head"), coords=coords)
    return _answer(info, spec, head_map, None, {}, [f"not applicable: {reason}"])


def _answer(
    info: MetricInfo,
    spec: str,
    head_map: xr.DataArray,
    by_test: xr.DataArray | None,
    extra: dict[str, xr.DataArray],
    notes: Sequence[str],
) -> Answer:
    return Answer(
        spec=spec, name=info.name, summary=info.summary, unit=info.unit, better=info.better, paper=info.paper,
        bibtex=info.bibtex, tower="decoder", head_map=head_map, by_prompt=by_test, extra=extra, notes=tuple(notes),
    )  # fmt: skip


def _lines(outcomes: Sequence[Outcome], mean: np.ndarray) -> list[str]:
    counted = sum(outcome.counted for outcome in outcomes)
    lines = [f"{counted} of {len(outcomes)} tests counted (ROUGE-1 recall of the answer above 0.5)"]
    if counted:
        known = mean[np.isfinite(mean)]
        lines.append(
            f"{int((known >= RETRIEVAL_HEAD).sum())} of {known.size} heads are at or above {RETRIEVAL_HEAD}"
        )
    else:
        lines.append(
            "no test was passed, so no head has a score: ask something easier (shorter lengths, fewer pairs, "
            "another style)"
        )
    return [*lines, *alignment_notes({one.id: one.alignment for one in outcomes})]


def _top_scores(outcomes: Sequence[Outcome], tests: np.ndarray, mean: np.ndarray) -> list[float]:
    """Per outcome, the score of the head that is best over all counted tests; NaN for tests that do not count."""
    if not len(tests):
        return [np.nan for _ in outcomes]
    best = int(np.nanargmax(mean))
    values = iter(tests.reshape(len(tests), -1)[:, best])
    return [float(next(values)) if outcome.counted else np.nan for outcome in outcomes]


def _grid(outcomes: Sequence[Outcome], values: Sequence[float]) -> xr.DataArray:
    """Mean per (length, depth), NaN where no value is defined."""
    lengths = sorted({outcome.length for outcome in outcomes})
    depths = sorted({outcome.depth for outcome in outcomes})
    grid = np.full((len(lengths), len(depths)), np.nan)
    for row, length in enumerate(lengths):
        for column, depth in enumerate(depths):
            here = [
                value
                for outcome, value in zip(outcomes, values, strict=True)
                if (outcome.length, outcome.depth) == (length, depth) and np.isfinite(value)
            ]
            grid[row, column] = np.mean(here) if here else np.nan
    return xr.DataArray(grid, dims=("length", "depth"), coords={"length": lengths, "depth": depths})
