"""Position ids of a forward: which tokens it brings, by their real-token index, and where the model shall put them."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from probe.errors import InterventionError
from probe.seam.call import Batch
from probe.seam.forwards import cached_tokens

Positions = Int[Tensor, "batch position"]
_NEEDED = ("position_ids", "attention_mask")


def require_positions(network: nn.Module, what: str) -> None:
    """Raise `InterventionError` unless the model's forward takes position ids beside a mask."""
    takes = inspect.signature(network.forward).parameters
    missing = [name for name in _NEEDED if name not in takes]
    encodes = bool(getattr(getattr(network, "config", None), "is_encoder_decoder", False))
    if missing or encodes:
        why = f"its forward takes no {missing[0]}" if missing else "it is an encoder-decoder"
        raise InterventionError(
            f"{what} was asked of {type(network).__name__}; {why}, so positions cannot be given to it: "
            "use a decoder with rotary or learned positions"
        )


def placed(
    keywords: dict[str, Any], batch: Batch, position_of: Callable[[Tensor], Tensor], what: str
) -> dict[str, Any]:
    """The keywords of a forward with the positions that `position_of` gives to real-token indices.

    The same keywords where that is what the model has anyway. Padding gets position 0. Repeated positions mean packed
    sequences to transformers where it gets no mask, so one that shows every token is given with them.

    Raises:
        InterventionError: positions of one's own were given, or positions of several axes.
    """
    index, total = new_tokens(keywords, batch)
    wanted = torch.where(index >= 0, position_of(index), 0)
    given, storage = (
        keywords.get("position_ids"),
        torch.arange(total, device=index.device)[None, -index.shape[1] :],
    )
    _require_plain(given, index, storage, what)
    present = storage if given is None else given
    if bool(((present == wanted) | (index < 0)).all()):
        return keywords
    mask = keywords.get("attention_mask")
    if mask is None:
        mask = torch.ones(index.shape[0], total, dtype=torch.int64, device=index.device)
    return {**keywords, "position_ids": wanted, "attention_mask": mask}


def new_tokens(keywords: dict[str, Any], batch: Batch) -> tuple[Positions, int]:
    """Real-token index of every token that a forward brings (-1 = padding), and how many there are with the cache's."""
    start = cached_tokens(keywords.get("past_key_values"))
    given = next((keywords[k] for k in ("input_ids", "inputs_embeds") if keywords.get(k) is not None), None)
    if batch.tokens is not None:
        total, device = batch.tokens.shape[1], batch.tokens.device
    elif isinstance(given, Tensor):
        total, device = start + given.shape[1], given.device
    else:
        raise InterventionError("positions were to be given to a forward without tokens; pass input_ids")
    index = torch.arange(total, device=device)[None].expand(len(batch.prompts), -1)
    if batch.real is not None:
        real = batch.real[:, :total]
        index = (real.to(torch.int64).cumsum(1) - 1).masked_fill(~real, -1)
    return index[:, start:], total


def _require_plain(given: Any, index: Tensor, storage: Tensor, what: str) -> None:
    """Raise unless the positions that were given count tokens, with or without padding."""
    if given is None:
        return
    if given.ndim != 2:
        raise InterventionError(
            f"{what} was asked; position_ids of shape {tuple(given.shape)} were given: positions of several axes "
            "(images, audio) cannot be assigned anew"
        )
    if not any(bool(((given == plain) | (index < 0)).all()) for plain in (index, storage)):
        raise InterventionError(
            f"{what} was asked; it assigns position_ids, and the forward was given others than 0, 1, 2, …: "
            "leave them out"
        )
