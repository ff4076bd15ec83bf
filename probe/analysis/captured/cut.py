"""What is cut out of one attention call: the asked heads, rows and keys, and the numbers there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from probe_kernels import score_block
from probe_kernels.types import Scores
from torch import Tensor

from probe.analysis.captured.ask import Ask
from probe.analysis.captured.labels import TokenAxes
from probe.seam.call import AttentionCall

_BLOCK_NUMBERS = 2**22  # scores in one block of rows: 16 MB


@dataclass(frozen=True)
class Cut:
    """Heads, and storage indices of the rows and keys that any sequence of the batch asks, ascending."""

    heads: list[int]
    kv_heads: list[int]
    rows: Tensor
    keys: Tensor
    row_index: np.ndarray  # [batch, rows]: token index where that sequence asks the row, else -1
    key_index: np.ndarray  # [batch, keys]

    @classmethod
    def of(cls, call: AttentionCall, ask: Ask, axes: TokenAxes) -> "Cut":
        """What `ask` wants of this call."""
        place, group = call.place, call.n_heads // call.n_kv_heads
        heads = ask.heads_in(place.tower, place.layer, call.n_heads)
        query, key = call.query_index.cpu().numpy(), call.key_index.cpu().numpy()
        rows = np.stack(
            [ask.queries.chosen(i, axes.axis(place.tower, "query", b)) for b, i in enumerate(query)]
        )
        keys = np.stack([ask.keys.chosen(i, axes.axis(place.tower, "key", b)) for b, i in enumerate(key)])
        any_row, any_key = np.flatnonzero(rows.any(0)), np.flatnonzero(keys.any(0))
        return cls(
            heads,
            sorted({head // group for head in heads}),
            torch.from_numpy(any_row),
            torch.from_numpy(any_key),
            np.where(rows, query, -1)[:, any_row],
            np.where(keys, key, -1)[:, any_key],
        )

    def of_rows(self, rows: slice) -> "Cut":
        """The cut of some of its rows."""
        return replace(self, rows=self.rows[rows], row_index=self.row_index[:, rows])

    def picker(self, hand_on: Callable[["Cut", Tensor], None]) -> Callable[[Tensor, slice, slice], Tensor]:
        """Hands on the asked cells of the sweep's own blocks of probabilities, ``[B, heads, rows, keys]``."""

        def pick(block: Tensor, rows: slice, keys: slice) -> Tensor:
            first, last = torch.searchsorted(self.rows, torch.tensor([rows.start, rows.stop])).tolist()
            if first < last:
                device = block.device
                mine = self.of_rows(slice(first, last))
                part = block[:, self.heads][:, :, (mine.rows - rows.start).to(device)]
                there = ((self.keys >= keys.start) & (self.keys < keys.stop)).to(device)
                cells = part.new_zeros(*part.shape[:3], len(self.keys))
                cells[..., there] = part[..., (self.keys.to(device) - keys.start)[there]]
                hand_on(mine, cells)
            return block.new_zeros(*block.shape[:3], 0)

        return pick


def weigh(call: AttentionCall, cut: Cut, wanted: frozenset[str]) -> Iterator[tuple[Cut, dict[str, Tensor]]]:
    """``pattern``, ``scores`` and ``lse`` of the cut rows, as wanted, from q and k of those rows alone.

    Comes in blocks of rows, so that no more than a block is ever in memory.
    """
    if call.scores is None:
        raise ValueError("weigh() needs a call with scores")
    part = of_heads(call.scores, cut.heads)
    n_key = call.size[2]
    size = max(1, _BLOCK_NUMBERS // (call.size[0] * len(cut.heads) * n_key))
    for start in range(0, len(cut.rows), size):
        mine = cut.of_rows(slice(start, start + size))
        scores = score_block(part, call.layout, mine.rows, slice(0, n_key))
        lse = torch.logsumexp(scores, dim=-1)
        if part.sinks is not None:
            lse = torch.logaddexp(lse, _sinks(part.sinks, mine.rows).expand_as(lse))
        asked = scores[..., cut.keys.to(scores.device)]
        made = {"scores": asked, "lse": lse}
        if "pattern" in wanted:
            made["pattern"] = _probability(asked, lse)
        yield mine, {name: made[name] for name in wanted}


def _sinks(sinks: Tensor, rows: Tensor) -> Tensor:
    """Sink logits of some rows, for all sequences or for each."""
    return sinks.float()[:, None] if sinks.ndim == 1 else sinks[:, :, rows.to(sinks.device)].float()


def _probability(scores: Tensor, lse: Tensor) -> Tensor:
    return torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])


def of_heads(scores: Scores, heads: list[int]) -> Scores:
    """The scores of some query heads only, each with its own key head."""
    n_heads = scores.query.shape[1]
    if heads == list(range(n_heads)):
        return replace(scores, value=None)
    group = n_heads // scores.key.shape[1]
    bias, sinks = scores.bias, scores.sinks
    if sinks is not None:
        sinks = sinks[heads] if sinks.ndim == 1 else sinks[:, heads]
    if bias is not None and bias.ndim >= 3 and bias.shape[-3] > 1:
        bias = bias[..., heads, :, :]
    return replace(
        scores,
        query=scores.query[:, heads],
        key=scores.key[:, [head // group for head in heads]],
        value=None,
        bias=bias,
        sinks=sinks,
        alibi=None if scores.alibi is None else scores.alibi[heads],
    )


def to_numpy(values: Tensor) -> np.ndarray:
    """A copy as NumPy; bfloat16, which NumPy lacks, becomes float32 without loss."""
    values = values.detach()
    wide = values.float() if values.dtype == torch.bfloat16 else values
    copied: np.ndarray = wide.cpu().numpy().copy()
    return copied
