"""The tokens along each tower's queries and keys: the prompt's own, the decoder's, and what generation adds."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probe.analysis.captured.positions import Axis
from probe.analysis.inputs import Item
from probe.prompts.tokens import strings

Side = Literal["query", "key"]


@dataclass
class TokenAxes:
    """Axes of one item: ``given`` (the text it holds) and ``decoder`` (an encoder-decoder's other side), per row.

    An axis is empty where a tower reads no tokens: image patches, audio frames.
    """

    encoder_decoder: bool
    given: list[Axis]
    decoder: list[Axis]
    given_real: Tensor | None  # padding of the given text, on its device

    @classmethod
    def of(cls, item: Item, inputs: dict[str, Any], encoder_decoder: bool, tokenizer: Any) -> "TokenAxes":
        """The axes of an item as the model will get it."""
        mask = inputs.get("attention_mask")
        real = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
        given = _axes(inputs.get("input_ids"), real, tokenizer)
        if item.prompt is not None:
            n = len(item.prompt.tokens)
            given = [Axis(tuple(item.prompt.str_tokens), n, n, dict(item.prompt.spans))]
        decoder = _axes(inputs.get("decoder_input_ids"), None, tokenizer) if encoder_decoder else []
        return cls(encoder_decoder, given, decoder, real)

    def axis(self, tower: str, side: Side, row: int) -> Axis:
        """The tokens along one side of a tower's patterns."""
        axes = self._axes(tower, side)
        return axes[row] if row < len(axes) else Axis()

    def expecting(self, new_tokens: int) -> "TokenAxes":
        """The same with the tokens that generation will feed back (the last one is never fed)."""
        longer = [
            replace(axis, total=axis.total + new_tokens - 1)
            for axis in self._grown()
            if axis.total is not None
        ]
        return self._with(longer)

    def generated(self, sequences: Tensor, tokenizer: Any) -> "TokenAxes":
        """The same with the strings of what was generated; `sequences` holds whole rows, padding included."""
        axes = []
        for row, axis in enumerate(self._grown()):
            pads = 0
            if not self.encoder_decoder and self.given_real is not None:
                pads = int((~self.given_real[row]).sum())
            new = sequences[row, pads + (axis.length or 0) :]
            if axis.tokens is None:
                axes.append(axis)
                continue
            axes.append(replace(axis, tokens=axis.tokens + _strings(new, tokenizer)))
        return self._with(axes)

    def _axes(self, tower: str, side: Side) -> list[Axis]:
        if self.encoder_decoder:
            own = {"encoder": self.given, "decoder": self.decoder}
            own["cross"] = self.decoder if side == "query" else self.given
            return own.get(tower, [])
        if tower == "cross" and side == "key":
            return []
        return self.given if tower in ("decoder", "encoder", "cross") else []

    def _grown(self) -> list[Axis]:
        return self.decoder if self.encoder_decoder else self.given

    def _with(self, axes: list[Axis]) -> "TokenAxes":
        return replace(self, decoder=axes) if self.encoder_decoder else replace(self, given=axes)


def _axes(ids: object, real: Tensor | None, tokenizer: Any) -> list[Axis]:
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        return []
    fits = real is not None and real.shape == ids.shape
    rows = [ids[row][real[row]] if fits and real is not None else ids[row] for row in range(len(ids))]
    return [Axis(_strings(row, tokenizer), len(row), len(row)) for row in rows]


def _strings(ids: Tensor, tokenizer: Any) -> tuple[str, ...]:
    numbers = tuple(int(token) for token in ids.tolist())
    return tuple(map(str, numbers)) if tokenizer is None else strings(numbers, tokenizer)


def real_index(real: Tensor | None, rows: int, start: int, length: int) -> np.ndarray:
    """Index among real tokens of the positions ``start … start + length``; -1 for padding. ``[rows, length]``."""
    if real is None or real.shape[0] != rows or real.shape[1] < start + length:
        return np.broadcast_to(np.arange(start, start + length), (rows, length))
    counted = torch.cumsum(real.to(torch.int64), dim=1) - 1
    index: np.ndarray = counted.masked_fill(~real, -1)[:, start : start + length].cpu().numpy()
    return index
