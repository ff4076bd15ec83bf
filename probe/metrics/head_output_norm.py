"""Norm of a head's output: how loud it speaks, before or after its slice of W_O."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import MetricError
from probe.metrics.base import MetricInfo, wanted
from probe.metrics.making import one_of
from probe.metrics.output_projection import OutputProjections
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

_UNSEEN = "no linear map was seen to take z as its input, so W_O is not known"


class HeadOutputNorm(RowMetric):
    """Mean Euclidean norm of a head's output over rows, 0 or more, in units of the activations: ‖z_i‖.

    With ``of="head_out"``: ‖z_i W_O‖ with the head's own slice of W_O, bias left out. That needs the model: call
    `prepare` before the run, and what it returns after it.

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
        self._projections: OutputProjections | None = None
        self._weight: Tensor | None = None

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Learn the model whose output projections are meant; call what is returned when the run is over."""
        self._projections = OutputProjections(model)
        return self._projections.close

    def score(self, call: AttentionCall, attended: Attended) -> RowStat:
        """Norm of each row's output."""
        z = wanted(attended.z, "z").float()
        if self._weight is None:
            norm: Tensor = torch.linalg.vector_norm(z, dim=-1)
            return norm
        heads = [torch.linalg.vector_norm(z[:, h] @ self._weight[h], dim=-1) for h in range(z.shape[1])]
        return torch.stack(heads, dim=1)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold the rows; through W_O, as soon as the model has shown which linear map that is."""
        if self.of == "z":
            super().take(call, attended)
            return
        if self._projections is None:
            raise MetricError(
                f"{self.spec} was asked; it needs W_O: call prepare(model) before the run, or use of=z"
            )
        for row in range(call.size[0]):
            if "total" not in self.cell(call, row):
                self.not_applicable(call, row, _UNSEEN)

        def through(weight: Tensor) -> None:
            self._weight = weight
            super(HeadOutputNorm, self).take(call, attended)
            for row in range(call.size[0]):
                self.cell(call, row).pop("not_applicable", None)
            self._weight = None

        self._projections.after(call.place.module, wanted(attended.z, "z"), through)
