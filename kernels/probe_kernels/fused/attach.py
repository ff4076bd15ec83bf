"""What is put on the kernels' answers afterwards: splits joined, a learned sink, blocks of the table made coarser."""

from dataclasses import replace

import torch
from torch import Tensor

from probe_kernels.fused.launch import RowAnswers


def joined(parts: RowAnswers) -> RowAnswers:
    """Splits over disjoint keys as one.

    w = exp(lse_s - lse) weighs what is linear in p, w² the squares, and entropies add up by the chain rule.
    """
    if parts.lse.shape[0] == 1:
        return parts
    lse = parts.lse.logsumexp(0, keepdim=True)
    w = torch.exp(parts.lse - lse.nan_to_num(neginf=0.0)).masked_fill(parts.lse == -torch.inf, 0.0)
    top_p = top = None
    if parts.top_p is not None and parts.top is not None:
        top_p, best = (w * parts.top_p).max(0, keepdim=True)
        top = parts.top.gather(0, best)
    return replace(
        parts,
        lse=lse,
        z=None if parts.z is None else (w[..., None] * parts.z).sum(0, keepdim=True),
        entropy=None
        if parts.entropy is None
        else (w * parts.entropy - torch.xlogy(w, w)).sum(0, keepdim=True),
        square=None if parts.square is None else (w.square() * parts.square).sum(0, keepdim=True),
        top_p=top_p,
        top=top,
        masses=None if parts.masses is None else (w * parts.masses).sum(1, keepdim=True),
    )


def with_sink(answers: RowAnswers, sinks: Tensor) -> tuple[RowAnswers, Tensor]:
    """The answers with a learned sink as one more key whose value is 0, and the sink's mass."""
    logit = (sinks[None, :, None] if sinks.ndim == 1 else sinks).float().expand(answers.lse.shape[1:])[None]
    lse = torch.logaddexp(answers.lse, logit)
    w = torch.exp(answers.lse - lse).masked_fill(answers.lse == -torch.inf, 0.0)
    mass = torch.exp(logit - lse)
    entropy = answers.entropy
    if entropy is not None:
        entropy = w * entropy - torch.xlogy(w, w) - torch.xlogy(mass, mass)
    z = answers.z
    made = replace(
        answers,
        lse=lse,
        z=None if z is None else (w[..., None] * z).to(z.dtype),
        entropy=entropy,
        square=None if answers.square is None else w.square() * answers.square,
        top_p=None if answers.top_p is None else w * answers.top_p,
        masses=None if answers.masses is None else w * answers.masses,
    )
    return made, mass[0]


def coarser(table: Tensor, by: int) -> Tensor:
    """The block-LSE table of blocks `by` times as wide, ``[B, H, J, Q]``."""
    if by == 1:
        return table
    b, h, j, q = table.shape
    short = -j % by
    if short:
        table = torch.cat((table, table.new_full((b, h, short, q), -torch.inf)), dim=2)
    return table.reshape(b, h, -1, by, q).logsumexp(3)
