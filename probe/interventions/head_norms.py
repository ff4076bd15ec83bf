"""How large each head is at each token, and which of the heads are the largest there."""

import torch
from jaxtyping import Bool, Float
from probe_kernels.types import Attended
from torch import Tensor

from probe.seam.call import AttentionCall

PerHead = Float[Tensor, "batch chosen query_pos"]


def query_norms(call: AttentionCall, heads: tuple[int, ...]) -> PerHead:
    """‖q_h‖ of some heads, float32 or wider: of q as the scores are made from it, after RoPE."""
    if call.scores is None:
        raise ValueError("query norms need the scores of a call")
    return _norms(call.scores.query, heads)


def z_norms(attended: Attended, heads: tuple[int, ...]) -> PerHead:
    """‖z_h‖ of some heads, float32 or wider."""
    if attended.z is None:
        raise ValueError("z norms need z")
    return _norms(attended.z, heads)


def largest(norms: PerHead, keep: int) -> Bool[Tensor, "batch chosen query_pos"]:
    """True for the `keep` largest heads of every token; of equals the lower head number wins."""
    order = norms.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(norms, dtype=torch.bool).scatter_(1, order[:, :keep], True)


def _norms(values: Float[Tensor, "batch head query_pos d_head"], heads: tuple[int, ...]) -> PerHead:
    chosen = values.index_select(1, torch.tensor(heads, device=values.device))
    wide = chosen if chosen.dtype == torch.float64 else chosen.float()
    norms: Tensor = torch.linalg.vector_norm(wide, dim=-1)
    return norms
