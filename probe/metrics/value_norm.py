"""Norm of the value vectors: heads drain the values of tokens that serve as sinks."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import MetricError
from probe.metrics.base import MetricInfo, wanted
from probe.metrics.making import one_of
from probe.metrics.papers import GUO_2024
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall
from probe.seam.places import places
from probe.seam.projection import Projection, ProjectionWatch

Of = Literal["value", "head_out"]


class ValueNorm(TokenMetric):
    """Mean Euclidean norm of a head's value vectors over real tokens, 0 or more, in units of the activations.

    Token map: ‖v_j‖; with ``of="head_out"`` ‖v_j W_O‖ by the head's own slice of W_O, bias and any gate of z left out
    (call `prepare` before the run, what it returns after it). Each key counts once, however many steps of a KV cache
    see it. Query heads that share a key/value head share its v.

    Guo et al., "Active-Dormant Attention Heads", 2024 (value-state drain).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(ValueNorm(), torch.ones(1, 3, 3), values=torch.tensor([[[3.0, 4.0]] * 3]))
    array([5.])
    """

    info: ClassVar = MetricInfo(
        name="value_norm",
        summary="Mean Euclidean norm of a head's value vectors, 0 or more, in units of the activations.",
        unit="activation",
        better="high",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
        per_token=True,
        needs=frozenset({"values"}),
    )

    def __init__(self, of: Of = "value", **more: object) -> None:
        super().__init__(of=of, **more)
        one_of(self.info.name, "of", of, ("value", "head_out"))
        self.of = of
        self._watch: ProjectionWatch | None = None
        self._waiting: dict[str, AttentionCall] = {}
        self._norm: Tensor | None = None

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Watch the model's output projections (``of="head_out"``); call what is returned when the run is over."""
        if self.of == "value":
            return lambda: None
        self._watch = ProjectionWatch(model, list(places(model)), self._projected)
        return self._watch.close

    def asks(self, call: AttentionCall) -> Want:
        """z, by which W_O is recognised; nothing for the values alone."""
        return Want(z=self.of == "head_out")

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the norms: now, or once the model has shown its W_O."""
        if self.of == "value":
            self._norm = self._values(call).float().norm(dim=-1)
            self._norm = self._norm.repeat_interleave(call.n_heads // call.n_kv_heads, dim=1)
            super().take(call, attended)
            return
        if self._watch is None:
            raise MetricError(
                f"{self.spec} was asked; it needs W_O: call prepare(model) before the run, or use of=value"
            )
        self._waiting[call.place.module] = call
        self._watch.seen(call.place.module, wanted(attended.z, "z"))

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Norms of the keys that no earlier call has counted."""
        norm, index = wanted(self._norm, "value"), call.key_index
        counted = [len(self.cell(call, row).get("token_weight", ())) for row in range(len(index))]
        new = index >= torch.tensor(counted, device=index.device)[:, None]
        return TokenSums(norm, new.to(norm.dtype), index.masked_fill(~new, -1))

    def _projected(self, attention: str, projection: Projection, given: Tensor) -> None:
        call = self._waiting.pop(attention)
        value = self._values(call)
        shared = value.repeat_interleave(projection.n_heads // value.shape[1], dim=1)
        rows = shared.transpose(1, 2).flatten(2).to(given.dtype)  # as W_O is given z: heads side by side
        parts = (projection.head_out(rows, [head])[:, 0] for head in range(projection.n_heads))
        self._norm = torch.stack([part.float().norm(dim=-1) for part in parts], dim=1)
        super().take(call, Attended())

    def _values(self, call: AttentionCall) -> Float[Tensor, "batch kv_head key_pos d_v"]:
        if call.scores is None or call.scores.value is None:
            raise MetricError(
                f"{self.spec} was asked; {call.place.module} was given no values: leave this metric out"
            )
        return call.scores.value
