"""What a head's OV circuit makes of tokens that it attends to: their logits, and its eigenvalues on the vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.anatomy import Anatomy
from probe.circuits.lens import unembedded
from probe.circuits.weights import HeadWeights
from probe.seam.projection import matrix

_TOKENS = 8192  # of the vocabulary at a time


@torch.no_grad()
def ov_logits(
    anatomy: Anatomy,
    heads: HeadWeights,
    states: Float[Tensor, "token d_model"],
    wanted: Int[Tensor, " answer"] | None = None,
) -> Float[Tensor, "head token answer"]:
    """``W_U · norm(W_O W_V · e_t)`` with the norms' gains: every number per token is right up to a positive factor.

    `wanted` are the answer tokens; None = the whole vocabulary.
    """
    writes = torch.einsum("td,hdv,hvm->htm", states, heads.w_v, heads.w_o)
    if anatomy.final is not None:
        writes = anatomy.final.part(writes, torch.ones_like(writes[..., :1]))
    weight = matrix(anatomy.unembed)
    if wanted is None or weight is None:
        logits = unembedded(anatomy.unembed, writes)
        return logits if wanted is None else logits[..., wanted]
    return writes.to(weight.dtype) @ weight[:, wanted]


@torch.no_grad()
def vocabulary_map(
    anatomy: Anatomy, embedding: Float[Tensor, "token d_model"]
) -> Float[Tensor, "d_model d_model"] | None:
    """``W_U W_E`` summed over tokens, each embedding at a scale of 1; None where W_U is no matrix of that width."""
    weight = matrix(anatomy.unembed)
    if weight is None or weight.shape[0] != embedding.shape[1]:
        return None
    count = min(len(embedding), weight.shape[1])
    made = torch.zeros(weight.shape[0], weight.shape[0], device=weight.device)
    for start in range(0, count, _TOKENS):
        some = slice(start, min(start + _TOKENS, count))
        rows, columns = embedding[some].float(), weight[:, some].float()
        centred = rows - rows.mean(-1, keepdim=True) if _centres(anatomy) else rows
        scale = centred.square().mean(-1, keepdim=True).sqrt()
        made += columns @ (rows / scale.clamp_min(1e-8))
    if anatomy.final is None:
        return made
    # A gain and the taking of a mean are linear: what stands before the unembedding is folded into it.
    return anatomy.final.centred((anatomy.final.gain.float()[:, None] * made).T).T


def _centres(anatomy: Anatomy) -> bool:
    return anatomy.final is not None and anatomy.final.centres


def eigenvalue_positivity(
    heads: HeadWeights, vocabulary: Float[Tensor, "d_model d_model"]
) -> Float[Tensor, " head"]:
    """``Σ Re λ / Σ |λ|`` of ``W_U W_O W_V W_E``, -1 to 1 (1: copying), from a d_head × d_head matrix (Elhage 2021).

    Nonzero eigenvalues of a product are those of its factors turned round: ``W_O W_U W_E W_V``. A head that writes
    nothing has none: 0.
    """
    small = torch.einsum("hvm,mn,hnw->hvw", heads.w_o, vocabulary, heads.w_v)
    values = torch.linalg.eigvals(small.double())
    size = values.abs().sum(-1)
    return torch.where(size > 0, values.real.sum(-1) / size.clamp_min(1e-300), torch.zeros_like(size))
