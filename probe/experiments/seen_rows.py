"""Chosen rows of every head's attention, handed over layer by layer and then forgotten: no n×n map is kept."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.sight import sight
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.seam.call import AttentionCall
from probe.seam.session import Session

_TOWERS = ("decoder", "encoder")


@dataclass(frozen=True)
class SeenRows:
    """Some rows of one layer's attention, and what every key receives from all of its rows."""

    call: AttentionCall
    p: Float[Tensor, "batch head row key"]  # float32, 0 where hidden
    visible: Bool[Tensor, "batch row key"]
    column: Float[Tensor, "batch head key"]  # Σ of p over all rows

    @property
    def layer(self) -> int:
        """The layer within its tower."""
        return self.call.place.layer

    def without_sinks(self, share: float) -> Bool[Tensor, "batch head key"]:
        """Keys that receive less than `share` of all of a head's attention; every key where `share` is 0."""
        if share == 0:
            return torch.ones_like(self.column, dtype=torch.bool)
        return self.column < share * self.column.sum(-1, keepdim=True)


def see_rows(
    loaded: LoadedModel,
    tokens: Int[Tensor, "batch token"],
    rows: Int[Tensor, "row"],
    take: Callable[[SeenRows], None],
) -> list[str]:
    """One forward over sequences of one length; `take` is given `rows` of every layer, in the order the layers run.

    The rows are those of the attention as it acts, edits of an outer block included. Returns the lines that a reader
    of the numbers must see. Raises `UnseenLayersError` where no attention was seen.
    """
    model = loaded.model
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in {"logits_to_keep": 1, "use_cache": False}.items() if k in accepts}
    watch = _Watch(rows.cpu(), take)
    with evaluating(model), torch.no_grad(), Session(model, [watch]) as session:
        model(input_ids=tokens.to(loaded.device), **frugal)
        session.require_seen()
        return session.notes


def drawn_rows(among: Int[np.ndarray, "candidate"], count: int, seed: int) -> Int[Tensor, "row"]:
    """`count` of these rows, all of them where there are no more, ascending, drawn with `seed`."""
    chosen = np.random.default_rng(seed).choice(among, size=min(count, len(among)), replace=False)
    return torch.from_numpy(np.sort(chosen).astype(np.int64))


def cannot_read(loaded: LoadedModel) -> str | None:
    """Why a model does not attend over a prompt by itself, or None."""
    config: Any = getattr(loaded.model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return "it needs a model that reads the prompt in one tower, not an encoder and a decoder"
    if "input_ids" not in inspect.signature(loaded.model.forward).parameters:
        return "it needs a model that reads tokens"
    return None


def long_enough(prompts: Sequence[Prompt], needed: int) -> tuple[tuple[Prompt, ...], list[str]]:
    """The prompts of at least so many tokens, and a line that names the others."""
    short = [f"{one.id!r} ({len(one)})" for one in prompts if len(one) < needed]
    line = f"left out, of fewer than {needed} tokens: {', '.join(short)}"
    return tuple(one for one in prompts if len(one) >= needed), [line] if short else []


def share_within(
    p: Float[Tensor, "head row key"], other: Float[Tensor, "head row key"], keep: Bool[Tensor, "head key"]
) -> Float[Tensor, "head"]:
    """``Σ min(p, p') / Σ p`` over rows and kept keys; NaN where the kept keys have nothing."""
    kept = keep[:, None]
    both, whole = (torch.minimum(p, other) * kept).sum((-1, -2)), (p * kept).sum((-1, -2))
    return torch.where(whole > 0, both / whole.clamp_min(1e-300), torch.nan)


class _Watch:
    """The observer behind `see_rows`."""

    def __init__(self, rows: Int[Tensor, "row"], take: Callable[[SeenRows], None]) -> None:
        self._rows, self._take = rows, take
        self._name = f"rows {id(self)}"

    def want(self, call: AttentionCall) -> Want:
        """The rows, and the columns of all rows."""
        if call.place.tower not in _TOWERS:
            return Want(z=False)
        n_key = call.size[2]

        def pick(block: Tensor, rows: slice, keys: slice) -> Tensor:
            here = self._rows[(self._rows >= rows.start) & (self._rows < rows.stop)] - rows.start
            out = block.new_zeros(*block.shape[:2], len(here), n_key)
            out[..., keys] = block[:, :, here.to(block.device)]
            return out

        return Want(z=False, column=True, rows={self._name: pick})

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Hand one layer's rows over."""
        if call.place.tower not in _TOWERS or attended.column is None:
            return
        visible = torch.cat([sight(call, slice(row, row + 1)) for row in self._rows.tolist()], 1)
        self._take(SeenRows(call, attended.rows[self._name], visible, attended.column))
