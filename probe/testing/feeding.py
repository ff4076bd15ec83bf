"""Attention calls without a model: random prompts, fed to a metric whole, padded, in pieces or from a sliding cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from probe_kernels import attend
from probe_kernels.mask import Mask, causal, within
from probe_kernels.types import Layout, Scores
from torch import Tensor

from probe.errors import UsageError
from probe.metrics.base import Metric
from probe.seam.call import Activation, AttentionCall, Batch, Phase, Place, Point
from probe.seam.observer import PointObserver


@dataclass(frozen=True)
class Sample:
    """What the attention layers of a model were given for one prompt."""

    query: Float[Tensor, "layer head token d_qk"]
    key: Float[Tensor, "layer kv_head token d_qk"]
    value: Float[Tensor, "layer kv_head token d_v"]
    tokens: Int[Tensor, "token"]
    spans: dict[str, Bool[Tensor, "token"]] = field(default_factory=dict)
    number: int = 0
    scale: float = 1.0

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def reversed_heads(self) -> "Sample":
        """The same prompt with heads in reverse order."""
        turned = (self.query.flip(1), self.key.flip(1), self.value.flip(1))
        return Sample(*turned, self.tokens, self.spans, self.number, self.scale)


@dataclass(frozen=True)
class Feeding:
    """How prompts reach a metric: left padding, cuts into cached steps, dtype, sliding window, learned sinks."""

    pad: int = 0
    cuts: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float64
    window: int | None = None  # a sliding cache: keys out of the window are not even given
    sinks: Float[Tensor, "head"] | None = None
    backend: str | None = None


class Piece(NamedTuple):
    """Storage positions of one step: queries [start, stop), keys [first, stop)."""

    step: int
    first: int
    start: int
    stop: int


def samples(lengths: Sequence[int], *, seed: int = 0, heads: int = 4, kv_heads: int = 2) -> list[Sample]:
    """Random prompts of two layers, of few distinct tokens (so that they repeat); spans prompt, start, middle, none."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, dtype=torch.float64)

    made = []
    for number, n in enumerate(lengths):
        at = torch.arange(n)
        spans = {
            "prompt": at < n // 2,
            "start": at < 2,
            "middle": (at >= n // 3) & (at < n // 2),
            "none": at < 0,
        }
        tokens = torch.randint(0, max(2, n // 3), (n,), generator=random)
        q, k, v = normal(2, heads, n, 8), normal(2, kv_heads, n, 8), normal(2, kv_heads, n, 6)
        made.append(Sample(2.0 * q, k, v, tokens, spans, number, scale=8**-0.5))
    return made


def feed(metric: Metric, prompts: Sequence[Sample], how: Feeding | None = None) -> Metric:
    """Give a metric every call of these prompts as one batch, and return it."""
    how = how or Feeding()
    length = max(one.length for one in prompts) + how.pad
    for piece in _pieces(length, how):
        batch = _batch(prompts, length, piece)
        for layer in range(prompts[0].query.shape[0]):
            call = _call(prompts, length, how, piece, layer, batch)
            if call.scores is None:
                raise UsageError("a call without scores was made; give samples with query and key")
            attended = attend(call.scores, call.layout, metric.want(call), backend=how.backend)
            metric.update(call, attended)
            if isinstance(metric, PointObserver):
                for point in sorted(metric.points):
                    metric.activation(_activation(prompts, length, how, piece, call, point))
    return metric


_WIDTH = 6  # of the residual stream, of MLP outputs and of router logits


def _activation(
    prompts: Sequence[Sample], length: int, how: Feeding, piece: Piece, call: AttentionCall, point: Point
) -> Activation:
    """Random activations that depend on prompt, layer and point alone, however they are cut and padded."""
    rows = []
    for one in prompts:
        seed = 1000 * one.number + 10 * call.place.layer + len(point)
        made = torch.Generator().manual_seed(seed)
        real = torch.randn(one.length, _WIDTH, generator=made, dtype=torch.float64)
        rows.append(torch.cat([real.new_full((length - one.length, _WIDTH), 3.0), real]))
    value = torch.stack(rows)[:, piece.start : piece.stop].to(how.dtype)
    place = Place(f"layers.{call.place.layer}", "decoder", call.place.layer)
    return Activation(place, call.batch, call.phase, point, value, piece.start)


def _pieces(length: int, how: Feeding) -> Iterator[Piece]:
    edges = [0, *(cut for cut in how.cuts if 0 < cut < length), length]
    for step, (start, stop) in enumerate(pairwise(edges)):
        yield Piece(step, 0 if how.window is None else max(0, start - how.window + 1), start, stop)


def _batch(prompts: Sequence[Sample], length: int, piece: Piece) -> Batch:
    tokens = torch.stack(
        [torch.cat([one.tokens.new_zeros(length - one.length), one.tokens]) for one in prompts]
    )
    real = torch.stack([torch.arange(length) >= length - one.length for one in prompts])[:, : piece.stop]
    numbers, spans = tuple(one.number for one in prompts), tuple(one.spans for one in prompts)
    return Batch(numbers, piece.step, tokens[:, : piece.stop], None if bool(real.all()) else real, spans)


def _call(
    prompts: Sequence[Sample], length: int, how: Feeding, piece: Piece, layer: int, batch: Batch
) -> AttentionCall:
    def stacked(name: str, first: int) -> Tensor:
        rows = [getattr(one, name)[layer] for one in prompts]
        # Padding holds numbers that would be seen in every answer if they were counted.
        full = [
            torch.cat([row.new_full((row.shape[0], length - row.shape[1], row.shape[2]), 3.0), row], 1)
            for row in rows
        ]
        return torch.stack(full)[:, :, first : piece.stop].to(how.dtype)

    query, key, value = (
        stacked("query", piece.start),
        stacked("key", piece.first),
        stacked("value", piece.first),
    )
    rules = (causal(),) if how.window is None else (causal(), within(how.window))
    layout = Layout(
        Mask(rules),
        torch.arange(piece.start, piece.stop)[None],
        torch.arange(piece.first, piece.stop)[None],
        query_real=None if batch.real is None else batch.real[:, piece.start :],
        key_real=None if batch.real is None else batch.real[:, piece.first :],
    )
    scores = Scores(query, key, value, prompts[0].scale, sinks=how.sinks)
    phase: Phase = "decode" if piece.step and piece.stop - piece.start == 1 else "prefill"
    return AttentionCall(
        Place(f"layers.{layer}.attention", "decoder", layer), batch, phase, scores, layout, causal=True
    )
