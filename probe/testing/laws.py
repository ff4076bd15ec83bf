"""The laws of every metric, after the manner of a conformance suite: what must hold whatever the metric measures."""

import math
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from probe.errors import ProbeError
from probe.metrics.answering import answers
from probe.metrics.base import Metric
from probe.metrics.state import restore, state
from probe.report.answer import Answer
from probe.testing.feeding import Feeding, feed, samples
from probe.testing.patterns import LENGTH, known_pattern, on_pattern

Make = Callable[[], Metric]

_TOLERANCE = 1e-5  # times (1 + |value|): float32 sums of a few dozen terms, and moments of them


class LawBroken(ProbeError):  # noqa: N818 -- reads as what happened
    """A metric breaks a law; the message names the law, where, and both numbers."""


def check_metric(metric: Metric | Make, *, known: Mapping[str, float] | None = None) -> None:
    """Hold a metric to the laws; returns if it keeps them all.

    Args:
        metric: A fresh metric, or what makes one each time it is called: a class, or
            ``lambda: Entropy(normalized=True)``.
        known: Head values the metric states for patterns of `probe.testing.known_pattern`, by pattern name; NaN
            where it must be undefined. Token ids are eight different ones, repeated once; the span ``start`` is the
            first two tokens.

    Raises:
        LawBroken: the first law that does not hold.
    """
    make = metric if not isinstance(metric, Metric) or isinstance(metric, type) else partial(deepcopy, metric)
    for law in LAWS.values():
        law(make)
    for name, value in (known or {}).items():
        _known(make, name, value)


def two_batches_equal_one(make: Make) -> None:
    """Prompts given one by one answer as prompts given together."""
    prompts = samples((13, 13, 13))
    apart = make()
    for one in prompts:
        feed(apart, [one])
    _same("two batches equal one", feed(make(), prompts), apart)


def left_padding_changes_nothing(make: Make) -> None:
    """Prompts of different lengths, padded on the left, answer as each alone."""
    prompts = samples((9, 14, 6))
    alone = make()
    for one in prompts:
        feed(alone, [one])
    _same("left padding changes nothing", feed(make(), prompts, Feeding(pad=3)), alone)


def permuting_heads_permutes_the_answer(make: Make) -> None:
    """Heads in another order give the same values in that order; what is not of heads has nothing to permute."""
    if make().info.axis not in ("head", "kv_head"):
        return
    prompts = samples((13, 13))
    turned = answers(feed(make(), [one.reversed_heads() for one in prompts]))
    plain = answers(feed(make(), prompts))
    for one, other in zip(plain, turned, strict=True):
        axis = one.head_map.dims[-1]
        back = other.head_map.isel({axis: slice(None, None, -1)})
        _close("permuting heads permutes the answer", make(), "head map", one.head_map, back)


def cached_equals_whole(make: Make) -> None:
    """A prompt in chunks, or token by token from a cache, answers as in one piece; also with padding and a window."""
    prompts = samples((11, 14))
    steps = (5, 9, 10, 11, 12, 13, 14, 15)
    for window in (None, 5):
        whole = feed(make(), prompts, Feeding(pad=1, window=window))
        pieces = feed(make(), prompts, Feeding(pad=1, cuts=steps, window=window))
        _same("chunked and cached equals whole", whole, pieces)


def finite_in_bf16(make: Make) -> None:
    """In bfloat16 every value that float64 defines is finite."""
    prompts = samples((13, 13))
    for exact, rough in zip(
        answers(feed(make(), prompts)),
        answers(feed(make(), prompts, Feeding(dtype=torch.bfloat16))),
        strict=True,
    ):
        lost = np.isfinite(exact.head_map.values) & ~np.isfinite(rough.head_map.values)
        if lost.any():
            raise LawBroken(
                f"{exact.spec} breaks 'finite in bf16': {int(lost.sum())} heads have no finite value"
            )


def resumed_equals_uninterrupted(make: Make) -> None:
    """Cells saved and put back into a fresh metric answer the same, and repeating a prompt's cells adds nothing."""
    prompts = samples((13, 13))
    first = feed(make(), prompts[:1])
    resumed = make()
    saved = {name: np.array(value) for name, value in state(first)}
    restore(resumed, saved)
    restore(resumed, saved)
    feed(resumed, prompts[1:])
    _same("a resumed run equals an uninterrupted one", feed(make(), prompts), resumed)


def report_round_trip_is_identical(make: Make) -> None:
    """A report saved and opened again holds the same numbers."""
    from probe.report import Report, open_report
    from probe.report.provenance import ModelRecord, Provenance

    found = answers(feed(make(), samples((9, 12))[:1]))
    report = Report(found, Provenance(ModelRecord("random"), tokens=9, mode="fused"))
    with tempfile.TemporaryDirectory() as folder:
        report.save(Path(folder) / "report")
        opened = open_report(Path(folder) / "report")
    if not report.identical(opened):
        raise LawBroken(f"{found[0].spec} breaks 'report round-trip is identical': the opened report differs")


LAWS: Mapping[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (
        two_batches_equal_one,
        left_padding_changes_nothing,
        permuting_heads_permutes_the_answer,
        cached_equals_whole,
        finite_in_bf16,
        resumed_equals_uninterrupted,
        report_round_trip_is_identical,
    )
}


def _known(make: Make, name: str, value: float) -> None:
    tokens = list(range(LENGTH // 2)) * 2
    spans = {"start": [at < 2 for at in range(LENGTH)]}
    found = float(on_pattern(make(), known_pattern(name), tokens=tokens, spans=spans)[0])
    same = math.isnan(found) if math.isnan(value) else abs(found - value) <= _TOLERANCE * (1 + abs(value))
    if not same:
        raise LawBroken(f"{make().spec} on the {name} pattern: stated {value}, found {found}")


def _same(law: str, one: Metric, other: Metric) -> None:
    for left, right in zip(answers(one), answers(other), strict=True):
        for what, a, b in _arrays(left, right):
            _close(law, one, what, a, b)


def _arrays(one: Answer, other: Answer) -> list[tuple[str, xr.DataArray, xr.DataArray]]:
    pairs = [("head map", one.head_map, other.head_map)]
    if one.by_prompt is not None and other.by_prompt is not None:
        pairs.append(("values per prompt", one.by_prompt, other.by_prompt))
    for prompt, tokens in one.token_maps.items():
        pairs.append((f"token map of prompt {prompt}", tokens, other.token_maps[prompt]))
    pairs += [(name, values, other.extra[name]) for name, values in one.extra.items()]
    return pairs


def _close(law: str, metric: Metric, what: str, one: xr.DataArray, other: xr.DataArray) -> None:
    a, b = one.values, other.values
    if a.shape != b.shape:
        raise LawBroken(f"{metric.spec} breaks '{law}': {what} has shape {a.shape} and {b.shape}")
    near = np.isclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
    if not near.all():
        at = tuple(int(i) for i in np.argwhere(~near)[0])
        raise LawBroken(f"{metric.spec} breaks '{law}': {what} at {at} of {one.dims} is {a[at]} and {b[at]}")
