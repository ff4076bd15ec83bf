"""Block change: how far a layer turns the residual stream."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from probe.interventions.redundancy import cosine
from probe.metrics.base import MetricInfo
from probe.metrics.block_metric import BlockMetric
from probe.metrics.papers import HE_2024
from probe.seam.call import Activation


class BlockChange(BlockMetric):
    """1 - mean over tokens of cos(block in, block out), in [0, 2]; low = the layer turns the stream little.

    S of whole blocks as LLM-Drop measures it (computed in float32): `skip_layer` with ``rule=similarity`` takes the
    layers where it is smallest. The experiment `redundancy` has S of attention and MLP apart.

    He et al. 2024, What Matters in Transformers? Not All Attention is Needed (arXiv:2406.15786).

    >>> BlockChange().info.axis
    'layer'
    """

    info: ClassVar = MetricInfo(
        name="block_change",
        summary="1 - mean cosine of a layer's input and output, 0 to 2; low = it can be skipped at little cost.",
        unit="1 - cos",
        better="low",
        paper="He et al. 2024",
        bibtex=HE_2024,
        axis="layer",
    )

    def change(self, before: Activation, after: Activation) -> Float[Tensor, "batch token"]:
        """1 - cos of each token."""
        return 1 - cosine(before.value, after.value)
