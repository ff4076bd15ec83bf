"""From the attention between sentences to one labelled answer: receiver heads, sentences, reliability, suppression."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from probe.experiments.base import told
from probe.experiments.receivers import Reliability, mean_defined
from probe.experiments.suppression import centred
from probe.metrics.base import MetricInfo
from probe.prompts import Prompt
from probe.prompts.sentences import Sentence
from probe.report.answer import Answer


@dataclass
class Text:
    """A prompt's sentences, and what was found of them."""

    prompt: Prompt
    sentences: list[Sentence]
    score: np.ndarray | None = None  # [sentence]: receiver score
    between: np.ndarray | None = None  # [sentence, source]: mean M of the receiver heads
    effects: np.ndarray | None = None  # [sentence, source]: suppression, b < a


@dataclass(frozen=True)
class Measured:
    """What was found of the heads."""

    layers: Sequence[int]
    n_heads: Sequence[int]
    kurtoses: np.ndarray = field(repr=False)  # [prompt, layer, head]
    receivers: np.ndarray = field(repr=False)  # [layer, head]: 1, 0 or NaN
    reliability: Reliability


def anchors_answer(
    info: MetricInfo, spec: str, measured: Measured, texts: Sequence[Text], notes: Sequence[str]
) -> Answer:
    """Mean kurtosis as the head map, per prompt too; heads and sentences as further arrays."""
    coords = {
        "layer": np.array(measured.layers, dtype=np.int64),
        "head": np.arange(measured.kurtoses.shape[2], dtype=np.int64),
        "n_heads": ("layer", np.array(measured.n_heads, dtype=np.int64)),
    }
    ids = [text.prompt.id for text in texts]
    value = measured.reliability
    return Answer(
        **told(spec, info),
        head_map=xr.DataArray(mean_defined(measured.kurtoses), dims=("layer", "head"), coords=coords),
        by_prompt=xr.DataArray(
            measured.kurtoses, dims=("prompt", "layer", "head"), coords={"prompt": ids, **coords}
        ),
        extra={
            "receivers": xr.DataArray(measured.receivers, dims=("layer", "head"), coords=coords),
            "reliability": xr.DataArray(
                np.array([value.value, value.low, value.high, value.heads], dtype=np.float64),
                dims=("statistic",),
                coords={"statistic": ["value", "low", "high", "heads"]},
            ),
            **_sentences(texts, ids),
        },
        notes=(*notes, *_lines(measured, texts)),
    )


def _sentences(texts: Sequence[Text], ids: Sequence[str]) -> dict[str, xr.DataArray]:
    longest = max(len(text.sentences) for text in texts)
    extra = {
        "start": _padded(
            [np.array([float(one.start) for one in text.sentences]) for text in texts], longest, ids
        ),
        "stop": _padded(
            [np.array([float(one.stop) for one in text.sentences]) for text in texts], longest, ids
        ),
    }
    scores = [text.score for text in texts if text.score is not None]
    if len(scores) == len(texts):
        extra["receiver_score"] = _padded(scores, longest, ids)
        maps = [_lower(text.between) for text in texts if text.between is not None]
        extra["map"] = _padded(maps, longest, ids)
    effects = [centred(text.effects) for text in texts if text.effects is not None]
    if effects:
        extra["suppression"] = _padded(effects, longest, ids)
        extra["suppression_effect"] = _padded([mean_defined(one) for one in effects], longest, ids)
    return extra


def _lower(between: np.ndarray) -> np.ndarray:
    """NaN where the source lies behind the sentence."""
    at = np.arange(len(between))
    return np.where(at[:, None] >= at, between, np.nan)


def _padded(each: Sequence[np.ndarray], longest: int, ids: Sequence[str]) -> xr.DataArray:
    """Arrays of several prompts as one, NaN beyond the sentences of a prompt."""
    axes = each[0].ndim
    grid = np.full((len(each), *(longest,) * axes), np.nan)
    for row, one in enumerate(each):
        grid[row][tuple(slice(size) for size in one.shape)] = one
    names = ("sentence", "source")[:axes]
    coords = {"prompt": list(ids), **{name: np.arange(longest, dtype=np.int64) for name in names}}
    return xr.DataArray(grid, dims=("prompt", *names), coords=coords)


def _lines(measured: Measured, texts: Sequence[Text]) -> list[str]:
    counts = [len(text.sentences) for text in texts]
    many = str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    lines = [f"{many} sentences in {len(texts)} prompt{'s' if len(texts) > 1 else ''}"]
    one = measured.reliability
    if np.isnan(one.value):
        lines.append("split-half reliability is not defined: it needs prompts in both halves (two or more)")
    elif np.isnan(one.low):
        lines.append(
            f"split-half reliability {one.value:.3f} over {one.heads} heads; its interval needs four prompts or more"
        )
    else:
        lines.append(
            f"split-half reliability {one.value:.3f} over {one.heads} heads, 95 % interval over prompts "
            f"{one.low:.3f} to {one.high:.3f}"
        )
    return lines
