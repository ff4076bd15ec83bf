"""Voids: the share of tokens to whose residual stream a layer hardly adds."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.voids import Voids
from probe.metrics.base import MetricInfo
from probe.metrics.block_metric import BlockMetric
from probe.metrics.making import one_of
from probe.seam.call import Activation


class Void(BlockMetric):
    """Share of tokens for which a layer is a void, in [0, 1].

    With D_l = ‖h_l‖ - ‖h_{l-1}‖ (norms of a block's output and input), layer l is a void for a token if D_l < alpha ·
    (max D - min D) over the layers before l; the first layer is compared with itself. As in `skip_layer` with
    ``rule=voids``, which skips them. `phase`: ``prefill`` (reading the prompt) or ``decode`` (writing) alone;
    ``both``.

    Shemiranifar 2025, Void in Language Models (arXiv:2505.14467).

    >>> Void(alpha=0.5).spec
    'void:alpha=0.5'
    """

    info: ClassVar = MetricInfo(
        name="void",
        summary="Share of tokens for which a layer is a void: it adds little to their norm, 0 to 1.",
        unit="share of tokens",
        better="high",
        paper="Shemiranifar 2025",
        bibtex="""@misc{shemiranifar2025void,
  title={Void in Language Models},
  author={Shemiranifar, Mani},
  year={2025},
  eprint={2505.14467},
  archivePrefix={arXiv}
}""",
        axis="layer",
    )

    def __init__(self, alpha: float = 0.8, phase: Literal["both", "prefill", "decode"] = "both") -> None:
        super().__init__(alpha=alpha, phase=phase)
        one_of("void", "phase", phase, ("both", "prefill", "decode"))
        if alpha < 0:
            raise UsageError(f"void: alpha was {alpha}; allowed is 0 or more")
        self.phase = phase
        self._voids = Voids(alpha)

    def see(self, seen: Activation) -> None:
        """Fold one side of a block, in the phase that was asked."""
        if self.phase in ("both", seen.phase):
            super().see(seen)

    def change(self, before: Activation, after: Activation) -> Float[Tensor, "batch token"]:
        """1 where the layer is a void for the token, else 0."""
        return self._voids.find(before.place, before.batch, before.value, after.value).float()
