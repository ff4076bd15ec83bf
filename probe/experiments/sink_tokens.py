"""Sink tokens: found by the massive activations of their residual stream, in dimensions that are found first."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import xarray as xr

from probe.errors import InterventionError
from probe.experiments.base import Ask, told
from probe.experiments.folding import fold
from probe.experiments.forwards import watch
from probe.interventions.sink_dims import Run, find_sink_dims, require_dims
from probe.metrics.answering import answers
from probe.metrics.base import MetricInfo
from probe.metrics.massive_activation import MassiveActivation
from probe.models import LoadedModel
from probe.report.answer import Answer


class SinkTokens:
    """How many tokens of a prompt are sinks at each layer, 0 or more: those with φ >= `tau` at the layer's input.

    φ(x) = max_{d in D} |x_d| / RMS(x). Without `dims`, D is found as `redistribute` finds it: the one or two dimensions
    that are at least `tau` times the RMS at the first token of four shipped texts, at the middle layer's input, and not
    at most other tokens. Token map: φ. `extra`: ``dims``; ``largest``, the largest φ of a layer, mean over prompts;
    ``first``, the share of prompts whose first token is a sink.

    Kang et al. 2025, See What You Are Told: Visual Attention Sink in Large Multimodal Models (arXiv:2503.03321); here
    for text.

    Args:
        tau: How massive a sink's activation is, in RMS; the largest possible is √d_model.
        dims: Sink dimensions joined by ``+``; found if left out.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="sink_tokens",
        summary="Tokens of a prompt that are sinks by the massive activations of a layer's input, 0 or more.",
        unit="tokens",
        better="high",
        paper="Kang et al. 2025",
        bibtex="""@inproceedings{kang2025see,
  title={See What You Are Told: Visual Attention Sink in Large Multimodal Models},
  author={Kang, Seil and Kim, Jinyeong and Kim, Junhyeok and Hwang, Seong Jae},
  booktitle={International Conference on Learning Representations},
  year={2025}
}""",
        per_token=True,
        axis="layer",
    )

    def __init__(self, tau: float = 20.0, dims: str = "") -> None:
        self.spec = self.info.name
        self.metric = MassiveActivation(dims, tau)  # checks both

    def run(self, ask: Ask) -> list[Answer]:
        """Find the dimensions, run the prompts, answer per tower; NaN and why where no dimension tells a sink."""
        metric, found = self.metric, bool(self.metric.dims)
        if found:
            require_dims(ask.model, tuple(metric.dims), self.spec)
        reason = None
        try:
            dims = tuple(metric.dims) or find_sink_dims(ask.model, metric.tau, self.spec, _run(ask.model))
        except InterventionError as error:
            dims, reason = (), str(error)
        fresh = MassiveActivation("+".join(map(str, dims)), metric.tau)
        prompts = ask.texts()
        notes = fold(ask.model, prompts, [fresh], tell=lambda n: ask.tell(n, len(prompts), self.spec))
        ask.tell(len(prompts), len(prompts), self.spec)
        how = "given" if found else "found at the first token of four shipped texts"
        notes.append(f"sink dimensions {', '.join(map(str, dims))} ({how}), tau={metric.tau:g}")
        if reason is not None:
            notes = [f"not applicable: {reason}"]
        return [self._answer(one, dims, metric.tau, notes, applies=reason is None) for one in answers(fresh)]

    def _answer(
        self, phi: Answer, dims: tuple[int, ...], tau: float, notes: list[str], *, applies: bool
    ) -> Answer:
        head_map = phi.extra["sink_tokens"]
        by_prompt = phi.by_prompt
        extra = {
            "dims": xr.DataArray(np.array(dims, dtype=np.int64), dims=("rank",)),
            "largest": phi.head_map,
        }
        if by_prompt is not None:
            counts = [(phi.token_maps[number] >= tau).sum("token") for number in sorted(phi.token_maps)]
            first = [phi.token_maps[number].isel(token=0) >= tau for number in sorted(phi.token_maps)]
            by_prompt = by_prompt.copy(data=np.stack([one.values for one in counts]).astype(np.float64))
            extra["first"] = head_map.copy(data=np.mean([one.values for one in first], axis=0))
        if not applies:
            head_map, by_prompt, extra = head_map * np.nan, None, {"largest": phi.head_map}
        return replace(
            phi, **told(self.spec, self.info, phi.tower), head_map=head_map, by_prompt=by_prompt,
            extra=extra,
            token_maps=phi.token_maps if applies else {}, notes=tuple(notes),
        )  # fmt: skip


def _run(loaded: LoadedModel) -> Run:
    return lambda observer, prompts: [watch(loaded, prompt, [observer]) for prompt in prompts]
