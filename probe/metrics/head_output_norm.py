"""Norm of a head's output: how loud it speaks, before or after its slice of W_O."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import MetricError
from probe.metrics.base import MetricInfo, wanted
from probe.metrics.making import one_of
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.seam.places import places
from probe.seam.projection import Projection, ProjectionWatch
from probe.shapes import RowStat


class HeadOutputNorm(RowMetric):
    """Mean Euclidean norm of a head's output over rows, 0 or more, in units of the activations: ‖z_i‖.

    With ``of="head_out"``: ‖x_i W_O‖ with the head's own slice of W_O, bias left out; x is what W_O is given: z, or z
    gated where the model gates it. That needs the model: call `prepare` before the run, what it returns after it.

    Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms", EMNLP 2020.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(HeadOutputNorm(), torch.ones(1, 3, 3), values=torch.tensor([[[3.0, 4.0]] * 3])).round(4)
    array([5.])
    """

    info: ClassVar = MetricInfo(
        name="head_output_norm",
        summary="Mean Euclidean norm of a head's output, 0 or more, in units of the activations.",
        unit="activation",
        better="high",
        paper="Kobayashi et al. 2020",
        bibtex="""@inproceedings{kobayashi2020attention,
  title={Attention is Not Only a Weight: Analyzing Transformers with Vector Norms},
  author={Kobayashi, Goro and Kuribayashi, Tatsuki and Yokoi, Sho and Inui, Kentaro},
  booktitle={Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
  year={2020}
}""",
        needs=frozenset({"values"}),
    )
    need: ClassVar = Want(z=True)

    def __init__(self, of: Literal["z", "head_out"] = "z") -> None:
        super().__init__(of=of)
        one_of("head_output_norm", "of", of, ("z", "head_out"))
        self.of = of
        self._watch: ProjectionWatch | None = None
        self._waiting: dict[str, AttentionCall] = {}

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Watch the model's output projections (``of="head_out"``); call what is returned when the run is over."""
        if self.of == "z":
            return lambda: None
        self._watch = ProjectionWatch(model, list(places(model)), self._projected)
        return self._watch.close

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Norm of each row's z."""
        norm: Tensor = torch.linalg.vector_norm(wanted(attended.z, "z").float(), dim=-1)
        return norm

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the rows: now, or once the model has put them through W_O."""
        if self.of == "z":
            super().take(call, attended)
            return
        if self._watch is None:
            raise MetricError(
                f"{self.spec} was asked; it needs W_O: call prepare(model) before the run, or use of=z"
            )
        self._waiting[call.place.module] = call
        self._watch.seen(call.place.module, wanted(attended.z, "z"))

    def _projected(self, attention: str, projection: Projection, given: Tensor) -> None:
        call = self._waiting.pop(attention)
        norms = [
            torch.linalg.vector_norm(projection.head_out(given, [head])[:, 0].float(), dim=-1)
            for head in range(projection.n_heads)
        ]
        self.add(call, torch.stack(norms, dim=1), call.query_real, self.weight(call, Attended()))
