"""``probe.from_lens``: metrics of attention that TransformerLens has computed and cached."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from probe_kernels import attend, chosen_backend
from probe_kernels.reference import statistics
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.analysis.choice import choose
from probe.analysis.edit import spans_of
from probe.analysis.guard import FiniteGuard
from probe.analysis.inputs import Item
from probe.analysis.lens.cached import POINTS, Cached, read_cache
from probe.analysis.lens.calls import read_layer
from probe.analysis.records import prompt_records
from probe.errors import InputError, UnsupportedAttentionError, UsageError
from probe.metrics.answering import answers
from probe.metrics.base import Metric
from probe.prompts import Prompt
from probe.report import Report
from probe.report.provenance import ModelRecord, Provenance, utc_now
from probe.seam.call import Activation, AttentionCall, Batch, Place, Point


def from_lens(
    source: Any, tokens: object = None, metrics: object = None, *, name: str | None = None
) -> Report:
    """Metrics of a TransformerLens `ActivationCache` (or of a bridge, which is run on `tokens`).

    Cached q, k and v (the rotated ones where there are) are swept as a model's own would be, once they have been held
    against the cached pattern; where they do not give it, or are not cached, the pattern itself is read, and metrics
    of values are "not applicable". Metrics of the residual stream and of MLP outputs read ``hook_resid_pre``,
    ``hook_resid_post`` and ``hook_mlp_out``. Padding is not known to a cache: give prompts of one length.

    Args:
        source: An `ActivationCache`, a bridge, or a mapping from TransformerLens's hook names to tensors.
        tokens: The ids that were run, ``[pos]`` or ``[batch, pos]``, or `Prompt`s of one length, whose spans are then
            known; None: metrics that need tokens are "not applicable".
        metrics: Specs or metric instances; None: the default metrics.
        name: Of the model, for the report; None: as the cache's model says.

    Raises:
        UsageError: a source of another kind, a bridge without tokens, or an experiment, which runs a model itself.
        InputError: a cache that lacks what is needed, or tokens of another shape than what was cached.
    """
    choice = choose(metrics)
    if choice.experiments:
        raise UsageError(
            f"{choice.experiments[0].spec!r} was asked of a cache; it runs the model itself: use probe.analyze"
        )
    for metric in choice.metrics:
        strange = sorted(getattr(metric, "points", frozenset()) - POINTS.keys())
        if strange:
            raise UsageError(
                f"{metric.spec} was asked of a cache; {strange[0]} is not read from one: use probe.analyze"
            )
    started = utc_now()
    prompts = _prompts(tokens)
    ids = None if prompts is None else torch.tensor([prompt.tokens for prompt in prompts])
    cached = read_cache(source, ids)
    notes = _feed(cached, _batch(cached, prompts, ids), choice.metrics)
    found = [answer for metric in choice.metrics for answer in answers(metric)]
    rows, length = cached.size
    provenance = Provenance(
        model=_model(cached, name),
        mode="cache",
        kernels=chosen_backend(None, next(iter(cached.tensors.values())).device),
        tokens=rows * length,
        prompts=rows,
        started=started,
        ended=utc_now(),
        notes=(*choice.notes, *notes),
    )
    return Report(found, provenance, prompt_records([Item(prompt) for prompt in prompts or ()]))


def _model(cached: Cached, name: str | None) -> ModelRecord:
    sample = next(iter(cached.tensors.values()))
    known = name or getattr(cached.config, "model_name", None) or "a cache of TransformerLens"
    dtype = str(sample.dtype).removeprefix("torch.")
    return ModelRecord(str(known), "TransformerLens", dtype=dtype, device=str(sample.device))


def _prompts(tokens: object) -> list[Prompt] | None:
    if tokens is None:
        return None
    if isinstance(tokens, Prompt):
        return [tokens]
    if (
        isinstance(tokens, Sequence)
        and not isinstance(tokens, str)
        and tokens
        and isinstance(tokens[0], Prompt)
    ):
        found = [one for one in tokens if isinstance(one, Prompt)]
    else:
        try:
            ids = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"tokens were given that are no rectangle of ids ({error}): give ids, not text"
            ) from error
        if ids.ndim not in (1, 2) or ids.is_floating_point() or not ids.numel():
            raise InputError(
                f"tokens were given as {ids.dtype} of shape {tuple(ids.shape)}; give ids [pos] or [batch, pos]"
            )
        rows = ids[None] if ids.ndim == 1 else ids
        found = [
            Prompt.of_tokens([int(one) for one in row], id=str(i)) for i, row in enumerate(rows.tolist())
        ]
    lengths = sorted({len(one.tokens) for one in found})
    if len(lengths) > 1:
        raise InputError(
            f"prompts of {lengths[0]} to {lengths[-1]} tokens were given; a cache has one length: read them one by one"
        )
    return found


def _batch(cached: Cached, prompts: list[Prompt] | None, ids: Tensor | None) -> Batch:
    sample = next(iter(cached.tensors.values()))
    rows, length = cached.size
    if ids is not None and tuple(ids.shape) != (rows, length):
        raise InputError(
            f"tokens of shape {tuple(ids.shape)} were given; the cache holds {rows} sequences of {length} tokens: give "
            "the ids that were run, a BOS that was put in front included"
        )
    spans = () if prompts is None else tuple(spans_of(prompt) for prompt in prompts)
    return Batch(tuple(range(rows)), 0, None if ids is None else ids.to(sample.device), None, spans)


def _feed(cached: Cached, batch: Batch, metrics: Sequence[Metric]) -> list[str]:
    """Give every metric each layer in turn, as a forward would; returns what the reader must know."""
    notes: dict[str, list[int]] = {}
    guard = FiniteGuard()
    for layer in cached.layers:
        _activation(cached, layer, "resid_pre", batch, metrics)
        reading = read_layer(cached, layer, batch)
        if reading is not None:
            if reading.note is not None:
                notes.setdefault(reading.note, []).append(layer)
            attended = _attended(reading.call, metrics)
            guard.update(reading.call, attended)
            for metric in metrics:
                metric.update(reading.call, attended)
        _activation(cached, layer, "mlp_out", batch, metrics)
        _activation(cached, layer, "resid_post", batch, metrics)
    every = len(cached.layers)
    return [
        f"{note} ({'all layers' if len(where) == every else f'layers {where}'})"
        for note, where in notes.items()
    ]


def _attended(call: AttentionCall, metrics: Sequence[Metric]) -> Attended:
    want = Want(z=False)
    for metric in metrics:
        want = want | metric.want(call)
    if call.scores is not None:
        return attend(call.scores, call.layout, want)
    if call.pattern is None or want.lse or want.table or want.parts:
        raise UnsupportedAttentionError(
            f"lse, a block table or parts of z were wanted of {call.place.module}, of which a pattern alone is cached: "
            "cache hook_q, hook_k and hook_v as well, or leave out the metrics that want them"
        )
    return statistics(call.pattern, call.layout, replace(want, z=False))


def _activation(cached: Cached, layer: int, point: Point, batch: Batch, metrics: Sequence[Any]) -> None:
    wanting = [metric for metric in metrics if point in getattr(metric, "points", ())]
    if not wanting:
        return
    value = cached.get(layer, (POINTS[point],))
    if value is None:
        raise InputError(
            f"{wanting[0].spec} was asked; the cache holds no blocks.{layer}.{POINTS[point]}: keep it in names_filter"
        )
    seen = Activation(Place(f"blocks.{layer}", "decoder", layer), batch, "prefill", point, value)
    for metric in wanting:
        metric.activation(seen)
