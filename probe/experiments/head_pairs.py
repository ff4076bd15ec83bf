"""A prompt, and the same prompt without a span: inputs of two forwards, and which of their tokens are the same."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probe.errors import InputError, UsageError
from probe.interventions.paired_rows import kept_tokens, sequence_of, several_axes
from probe.models import LoadedModel
from probe.prompts import Prompt


@dataclass(frozen=True)
class Pair:
    """One sequence with and without a span."""

    id: str
    whole: Mapping[str, Any]
    cut: Mapping[str, Any]
    length: int  # tokens of the whole sequence
    removed: int
    after: int  # tokens behind the span, which both have at their end


def pair_of_prompt(
    loaded: LoadedModel, prompt: Prompt, names: Sequence[str], asked: str, *, keep: bool
) -> Pair:
    """A prompt with and without its spans `names`; `keep`: the tokens that are left keep their positions.

    Raises:
        InputError: a span that is not there, is empty, overlaps another, or holds the last token.
        UsageError: `keep` on a model that makes its positions itself.
    """
    inside = _inside(prompt, names, asked)
    left = kept_tokens(torch.from_numpy(inside), f"{asked} of prompt {prompt.id!r}")
    ids = torch.tensor(prompt.tokens)
    cut: dict[str, Any] = {"input_ids": ids[left][None]}
    if keep:
        cut |= _kept_positions(loaded, left, asked)
    after = len(ids) - 1 - int(np.flatnonzero(inside)[-1])
    return Pair(prompt.id, {"input_ids": ids[None]}, cut, len(ids), int(inside.sum()), after)


def pair_of_inputs(
    loaded: LoadedModel, whole: Mapping[str, Any], cut: Mapping[str, Any], asked: str, *, keep: bool
) -> Pair:
    """Ready-made inputs with and without a span; what both have at the end comes after it.

    Raises:
        InterventionError: inputs that are not one sequence.
        InputError: sequences that do not end alike, or of which the second is not shorter; with `keep`, a second one
            that is not the first without one stretch.
        UsageError: `keep` on a model that makes its positions itself.
    """
    ids, _ = sequence_of(whole, asked)
    left, _ = sequence_of(cut, asked)
    front, back = common_ends(ids, left.to(ids.device))
    if not back or len(left) >= len(ids):
        raise InputError(
            f"{asked} was asked on {len(ids)} and {len(left)} tokens, of which the last {back} are alike; give the "
            "second without the span, ending in the same tokens"
        )
    if keep:
        if front + back < len(left):
            raise InputError(
                f"{asked} with positions=keep was asked; the second inputs are not the first without one stretch "
                f"({front} tokens are alike in front, {back} behind, of {len(left)}): use positions=shift"
            )
        at = torch.arange(len(ids))
        cut = {**cut, **_kept_positions(loaded, (at < front) | (at >= len(ids) - back), asked)}
    return Pair("pair", whole, cut, len(ids), len(ids) - len(left), back)


def common_ends(whole: Int[Tensor, "token"], cut: Int[Tensor, "kept"]) -> tuple[int, int]:
    """Tokens that two sequences share at the front, and at the back, of what the front leaves of the shorter.

    >>> common_ends(torch.tensor([1, 2, 9, 9, 3, 4, 5]), torch.tensor([1, 2, 3, 4, 5]))
    (2, 3)
    """
    room = min(len(whole), len(cut))
    front = _run(whole[:room] == cut[:room])
    room = min(len(whole), len(cut)) - front
    back = _run(whole.flip(0)[:room] == cut.flip(0)[:room])
    return front, back


def _run(same: Tensor) -> int:
    """How many are True before the first False."""
    return int(same.to(torch.int64).cumprod(0).sum())


def _inside(prompt: Prompt, names: Sequence[str], asked: str) -> Bool[np.ndarray, "token"]:
    inside = np.zeros(len(prompt), dtype=bool)
    for name in names:
        found = prompt.spans.get(name)
        if found is None or not found.any():
            state = "is empty" if found is not None else f"is none of {', '.join(sorted(prompt.spans))}"
            raise InputError(
                f"{asked} was asked; the span {name!r} of prompt {prompt.id!r} {state}: name its tokens"
            )
        if (inside & found).any():
            raise InputError(
                f"{asked} was asked; the span {name!r} of prompt {prompt.id!r} overlaps one before it: give spans that "
                "have no token in common"
            )
        inside |= found
    return inside


def _kept_positions(loaded: LoadedModel, left: Bool[Tensor, "token"], asked: str) -> dict[str, Tensor]:
    if "position_ids" not in inspect.signature(loaded.model.forward).parameters or several_axes(loaded.model):
        raise UsageError(
            f"{asked} with positions=keep was asked; {type(loaded.model).__name__} makes its positions itself: use "
            "positions=shift"
        )
    positions = left.nonzero()[:, 0][None].to(loaded.device)
    # Without a mask, a gap in the positions would be read as the border of two packed sequences.
    return {"position_ids": positions, "attention_mask": torch.ones_like(positions)}
