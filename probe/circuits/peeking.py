"""Attention-based peeking: in some layers only the last token looks back, behind them no token does."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar

from probe_kernels.types import BlockEdit, Edits
from torch import Tensor

from probe.seam.call import AttentionCall


class Peeking:
    """Every token sees itself and the first token; the last one, in layers that peek, all that the model lets it see.

    It stands among a session's interventions and does nothing outside `cutting`.
    """

    name: ClassVar[str] = "peeking"
    narrow: ClassVar[bool] = True

    def __init__(self) -> None:
        self._cut: frozenset[int] = frozenset()
        self._peek: frozenset[int] = frozenset()
        self._last = 0

    @contextmanager
    def cutting(self, layers: Collection[int], peek: Collection[int], last: int) -> Iterator[None]:
        """While open, attention is cut in `layers`; in those of `peek` the token at position `last` sees as before."""
        self._cut, self._peek, self._last = frozenset(layers), frozenset(peek), last
        try:
            yield
        finally:
            self._cut = frozenset()

    def edits(self, call: AttentionCall) -> Edits:
        """Hide earlier keys but the first."""
        if call.place.tower != "decoder" or call.place.layer not in self._cut:
            return Edits()
        query, key = call.query_index[:, :, None], call.key_index[:, None, :]
        hidden = (query != key) & (key != 0)
        if call.place.layer in self._peek:
            hidden = hidden & (query != self._last)

        def hide(block: Tensor, rows: slice, keys: slice) -> Tensor:
            return block.masked_fill(hidden[:, None, rows, keys], float("-inf"))

        return Edits(scores=(BlockEdit(hide),))
