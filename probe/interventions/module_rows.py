"""Which token rows of a module's output an intervention means: the same words as for attention's query rows."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from jaxtyping import Bool, Int
from probe_kernels.mask import Mask
from probe_kernels.types import Layout
from torch import Tensor

from probe.errors import InterventionError
from probe.interventions.span import SpanChoice, members
from probe.interventions.target import Target, on_rows
from probe.seam.call import AttentionCall, Batch, Phase, Place


class ModuleWhere(TypedDict, total=False):
    """Where an intervention on modules acts besides its layers: ``tower``, ``queries`` and ``phase`` (see `Where`)."""

    tower: str | None
    queries: SpanChoice
    phase: str


def acts(target: Target, place: Place, phase: Phase) -> bool:
    """Whether a module at `place` is meant, in this phase; only decoders decode."""
    now = phase if place.tower in ("decoder", "cross") else "prefill"
    return target.phase in ("both", now) and target.covers(place)


def token_rows(
    target: Target, place: Place, batch: Batch, phase: Phase, value: Tensor
) -> Bool[Tensor, "batch query_pos"] | None:
    """The chosen rows of a module's output ``[batch, token, …]``; None where every row is chosen.

    Raises:
        InterventionError: rows were named where a module's rows are not the prompt's tokens, or nobody knows which.
    """
    if target.queries == "all":
        return None
    if value.ndim < 3 or value.shape[0] != len(batch.prompts) or place.tower not in ("decoder", "encoder"):
        raise InterventionError(
            f"{target} was asked; {place.module} works on {list(value.shape)}, whose rows are not the tokens of "
            f"{len(batch.prompts)} prompts: leave queries out"
        )
    length = int(value.shape[1])
    index = _real_index(batch, length, target, place, value.device)
    layout = Layout(Mask(), query_pos=index.clamp_min(0), key_pos=index.clamp_min(0))
    call = AttentionCall(place, batch, phase, None, layout, causal=True)
    return members(target.queries, call, index, "queries")


def at_rows(edited: Tensor, value: Tensor, rows: Tensor | None) -> Tensor:
    """`edited` at the chosen rows of a module's output, `value` at the others."""
    if rows is None:
        return edited
    return on_rows(edited, value, rows.reshape(*rows.shape, *(1 for _ in range(value.ndim - 2))))


def _real_index(
    batch: Batch, length: int, target: Target, place: Place, device: torch.device
) -> Int[Tensor, "batch query_pos"]:
    """Number of each row among the real tokens of its prompt; -1 for padding."""
    known = batch.tokens if batch.tokens is not None else batch.real
    if known is None and batch.step > 0:
        raise InterventionError(
            f"{target} was asked; {place.module} continues a sequence that was given as embeddings, so nobody knows "
            "which tokens its rows are: give input_ids, or leave queries out"
        )
    stop = length if known is None else int(known.shape[1])
    if stop < length:
        raise InterventionError(
            f"{target} was asked; {place.module} has {length} rows for {stop} tokens: leave queries out"
        )
    positions = torch.arange(stop - length, stop, device=device)
    if batch.real is None:
        return positions.expand(len(batch.prompts), -1)
    real = batch.real.to(device)
    return (torch.cumsum(real.to(torch.int64), 1) - 1).masked_fill(~real, -1)[:, positions]


def require_text_rows(target: Target, towers: Iterable[str], name: str, encoded: bool) -> None:
    """Raise `InterventionError` where rows are named of towers whose rows are not the tokens of the prompts.

    `encoded`: the model has an encoder beside its decoder, whose tokens are others.
    """
    strange = set(towers) - ({"decoder"} if encoded else {"decoder", "encoder"})
    if target.queries != "all" and strange:
        raise InterventionError(
            f"{name} was asked; the rows of its {', '.join(sorted(strange))} layers are not the decoder's tokens: "
            "name tower=decoder, or leave queries out"
        )
