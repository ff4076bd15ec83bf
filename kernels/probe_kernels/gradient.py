"""z with gradients: torch's own fused attention where it says the same, recomputed chunks elsewhere.

Autograd through the plain sweep would keep every block of the pattern, n×n numbers in all; here each chunk is computed
again in the backward pass instead. Statistics carry no gradient.
"""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from probe_kernels.block import Inputs
from probe_kernels.chunks import Ground
from probe_kernels.form import form
from probe_kernels.types import Edits, Scores
from probe_kernels.values import weigh


def needed(scores: Scores) -> bool:
    """Whether autograd follows any of the tensors that make z."""
    tensors = (scores.query, scores.key, scores.value, scores.sinks, scores.bias, scores.alibi)
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


def detached(scores: Scores) -> Scores:
    """The same scores out of autograd's sight."""
    tensors = {name: one.detach() for name, one in vars(scores).items() if isinstance(one, Tensor)}
    return Scores(**{**vars(scores), **tensors})


def z_with_gradient(inputs: Inputs, ground: Ground, size: int) -> Tensor:
    """The z ``[B, H, Q, Dv]`` in the value's dtype, differentiable in q, k, v, sinks, bias and ALiBi slopes."""
    scores = inputs.scores
    if scores.value is None:
        raise ValueError("z was wanted, but the scores carry no value; give a value or Want(z=False)")
    if _is_plain(scores, ground):
        return torch.nn.functional.scaled_dot_product_attention(
            scores.query,
            scores.key,
            scores.value,
            is_causal=bool(ground.layout.mask.all_of),
            scale=scores.scale,
            enable_gqa=inputs.group > 1,
        )
    parts = []
    for rows in ground.runs(size):
        part = checkpoint(partial(_chunk_z, inputs, ground, rows), use_reentrant=False)
        parts.append(part)
    return torch.cat(parts, dim=2).to(scores.value.dtype)


def _chunk_z(inputs: Inputs, ground: Ground, rows: slice) -> Tensor:
    # The chunk is made here, not outside: its masks would otherwise live until the backward pass.
    return weigh(form(inputs, ground, ground.chunk(rows), Edits()), inputs)


def _is_plain(scores: Scores, ground: Ground) -> bool:
    """No mask at all, or causal and square; and nothing that torch's attention lacks."""
    if any(one is not None for one in (scores.softcap, scores.sinks, scores.bias, scores.alibi)):
        return False
    mask, value = ground.layout.mask, scores.value
    if mask.any_of or ground.key_real is not None or value is None:
        return False
    causal = [predicate.name for predicate in mask.all_of] == ["causal"]
    square = ground.shift == 0 and ground.n_query == ground.n_key
    finite = all(
        bool(one.detach().sum(dtype=torch.float32).isfinite()) for one in (scores.query, scores.key, value)
    )
    return finite and (not mask.all_of or (causal and square))
