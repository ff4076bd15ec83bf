"""Some heads of a call as a call of their own, and their answers put in the place of the whole call's.

What edits few heads then costs what those heads cost, and the others' answers do not depend on it by a single bit.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from probe_kernels.types import Attended, BlockEdit, Edits, Scores

_HEADLESS = frozenset({"visible", "seen_by", "band_seen_by", "rows"})


def of_heads(scores: Scores, heads: Sequence[int]) -> Scores:
    """The scores of some query heads; each gets a key head of its own."""
    chosen, n_heads = list(heads), scores.query.shape[1]
    if chosen == list(range(n_heads)):
        return scores
    shared = [head // (n_heads // scores.key.shape[1]) for head in chosen]
    bias, sinks, value = scores.bias, scores.sinks, scores.value
    if sinks is not None:
        sinks = sinks[chosen] if sinks.ndim == 1 else sinks[:, chosen]
    if bias is not None and bias.ndim >= 3 and bias.shape[-3] > 1:
        bias = bias[..., chosen, :, :]
    return replace(
        scores,
        query=scores.query[:, chosen],
        key=scores.key[:, shared],
        value=None if value is None else value[:, shared],
        bias=bias,
        sinks=sinks,
        alibi=None if scores.alibi is None else scores.alibi[chosen],
    )


def renumbered(edits: Edits, heads: Sequence[int]) -> Edits:
    """The same edits in a call of these heads only, which must hold every head that is edited."""
    number = {head: i for i, head in enumerate(heads)}

    def moved(edit: BlockEdit) -> BlockEdit:
        return edit if edit.heads is None else replace(edit, heads=tuple(number[head] for head in edit.heads))

    return Edits(tuple(moved(edit) for edit in edits.scores), tuple(moved(edit) for edit in edits.probs))


def overwrite(whole: Attended, heads: Sequence[int], part: Attended) -> Attended:
    """`whole` with every answer of `heads` taken from `part`; what is the same for all heads stays."""
    index: dict[torch.device, Tensor] = {}

    def put(old: Any, new: Any) -> Any:
        if isinstance(old, dict):
            return {key: put(one, new[key]) for key, one in old.items()}
        if not isinstance(old, Tensor):
            return old
        at = index.setdefault(old.device, torch.tensor(list(heads), device=old.device))
        if old.requires_grad or new.requires_grad:
            return old.index_copy(1, at, new)
        return old.index_copy_(1, at, new)

    return Attended(
        **{
            one.name: getattr(whole, one.name)
            if one.name in _HEADLESS
            else put(getattr(whole, one.name), getattr(part, one.name))
            for one in fields(Attended)
        }
    )
