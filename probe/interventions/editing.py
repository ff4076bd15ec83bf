"""The three ways of changing a chosen part of one layer's attention: its scores, its probabilities, its z."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from probe_kernels.types import Attended, BlockEdit, Edits
from torch import Tensor

from probe.interventions.target import Target, on_rows, row_mask
from probe.interventions.widening import hidden_again, own_mask
from probe.seam.call import AttentionCall

Change = Callable[
    [Tensor, slice, slice], Tensor
]  # (block [B, chosen heads, rows, keys], rows, keys) -> edited block


def edit_scores(target: Target, call: AttentionCall, change: Change) -> Edits:
    """Scores of the chosen heads and rows, after scale, softcap and bias; -inf marks hidden keys, which stay hidden."""
    heads, rows = target.heads_of(call), target.rows_of(call)
    if not heads or (rows is not None and not bool(rows.any())):
        return Edits()

    def apply(block: Tensor, part: slice, keys: slice) -> Tensor:
        chosen = row_mask(rows, part)
        if chosen is not None and not bool(chosen.any()):
            return block
        block = hidden_again(call, heads, block, part, keys)
        return on_rows(change(block, part, keys), block, chosen)

    return Edits(scores=(BlockEdit(apply, heads),))


def edit_probs(
    target: Target,
    call: AttentionCall,
    change: Change,
    sink: float | None = None,
) -> Edits:
    """Probabilities of the chosen heads and rows; the mass of a learned sink is multiplied by `sink` (None: kept).

    A hidden key holds 0, but so may a visible one: ask the mask (`visible`) where that matters.
    """
    heads, rows = target.heads_of(call), target.rows_of(call)
    if not heads or (rows is not None and not bool(rows.any())):
        return Edits()

    def apply(block: Tensor, part: slice, keys: slice) -> Tensor:
        chosen = row_mask(rows, part)
        if chosen is not None and not bool(chosen.any()):
            return block
        return on_rows(change(block, part, keys), block, chosen)

    def sinks(mass: Tensor, part: slice) -> Tensor:
        chosen = row_mask(rows, part)
        return on_rows(mass * (sink or 0.0), mass, None if chosen is None else chosen[..., 0])

    return Edits(probs=(BlockEdit(apply, heads, None if sink is None else sinks),))


def edit_z(
    target: Target,
    call: AttentionCall,
    attended: Attended,
    change: Callable[[Float[Tensor, "batch chosen query_pos d_head"]], Tensor],
) -> Attended:
    """The z of the chosen heads and rows; the same object where nothing is chosen."""
    heads, rows, z = target.heads_of(call), target.rows_of(call), attended.z
    if z is None or not heads or (rows is not None and not bool(rows.any())):
        return attended
    index = torch.tensor(heads, device=z.device)
    before = z.index_select(1, index)
    after = on_rows(change(before).to(z.dtype).expand_as(before), before, row_mask(rows, slice(None)))
    return replace(attended, z=z.index_copy(1, index, after))


def visible(call: AttentionCall, rows: slice, keys: slice) -> Tensor:
    """Which keys the model's own mask lets each query see, padding included: bool ``[batch, rows, keys]``."""
    return own_mask(call, rows, keys)


def visible_to(
    call: AttentionCall, heads: Sequence[int], rows: slice, keys: slice
) -> Bool[Tensor, "batch chosen_or_1 rows keys"]:
    """Which keys each of these heads sees; those that a bias of -inf hides (an indexer left them out) are not."""
    seen = own_mask(call, rows, keys)[:, None]
    if call.scores is None or call.scores.bias is None:
        return seen
    bias = call.scores.bias.expand(call.size[0], call.n_heads, *call.size[1:])
    return seen & (bias[:, list(heads), rows, keys] != float("-inf"))
