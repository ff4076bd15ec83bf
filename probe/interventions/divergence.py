"""Head divergence: how far a head's output at the last position moves when a span is taken out of the prompt."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PerHead = Float[Tensor, "head *row"]


def head_divergence(
    with_span: Float[Tensor, "head *row d_head"], without_span: Float[Tensor, "head *row d_head"]
) -> tuple[PerHead, PerHead]:
    """``VHD = ‖z(with) - z(without)‖₂`` and the text activation ``TA = ‖z(without)‖₂²``, per head and row, both >= 0.

    He et al. 2025, Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence, ACL 2025
    (arXiv:2412.13949).
    """
    wide, narrow = (z if z.dtype == torch.float64 else z.float() for z in (with_span, without_span))
    return (wide - narrow).norm(dim=-1), narrow.square().sum(-1)


def without_outliers(vhd: PerHead, activation: PerHead) -> PerHead:
    """The same VHD with the outliers of every row at 0.

    A head whose VHD and TA both lie above mean + standard deviation over the layer's heads is an outlier. The standard
    deviation is the population's (the paper does not say).
    """
    outlier = (vhd > _high(vhd)) & (activation > _high(activation))
    return vhd.masked_fill(outlier, 0.0)


def divergent_heads(vhd: Float[Tensor, "head"], activation: Float[Tensor, "head"]) -> Bool[Tensor, "head"]:
    """The heads of a layer above its median divergence, outliers (see `without_outliers`) left out.

    The median is taken after outliers were set to 0, and lies between the middle two for an even number (the paper
    states neither). At most half of a layer is selected.
    """
    kept = without_outliers(vhd, activation)
    return kept > kept.quantile(0.5)


def _high(values: PerHead) -> Float[Tensor, "*row"]:
    return values.mean(0) + values.std(0, correction=0)
