"""Token matches between queries and keys: ids to compare, and which rows have anything to match."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from probe_kernels.mask import Mask, Tile
from probe_kernels.types import Match
from torch import Tensor

from probe.errors import MetricError
from probe.seam.call import AttentionCall, Batch

_NO_KEY, _NO_QUERY = -1, -2  # ids that match nothing
_PAIRS = 2**22  # pairs compared at a time


def token_ids(call: AttentionCall, positions: Int[Tensor, "_ n"]) -> Int[Tensor, "batch n"]:
    """Token ids at storage positions; `_NO_KEY` for padding and for positions that hold no token yet."""
    tokens = call.batch.tokens
    if tokens is None:
        raise MetricError("token ids were asked; the model was given embeddings: run it on token ids")
    positions = positions.expand(tokens.shape[0], -1)
    known = (positions >= 0) & (positions < tokens.shape[1])
    at = positions.clamp(0, max(tokens.shape[1] - 1, 0))
    if call.batch.real is not None:
        known = known & call.batch.real.gather(1, at)
    return tokens.to(torch.int64).gather(1, at).masked_fill(~known, _NO_KEY)


def same_token(call: AttentionCall) -> Match:
    """Keys that hold the query's own token (the query itself included)."""
    return Match(_queries(call), token_ids(call, call.layout.key_pos))


def after_same_token(call: AttentionCall) -> Match:
    """Keys right after a key that holds the query's own token, within the same packed sequence."""
    layout = call.layout
    before = token_ids(call, layout.key_pos - 1)
    if layout.key_segment is not None:
        first = torch.ones_like(layout.key_segment[:, :1], dtype=torch.bool)
        starts = torch.cat([first, layout.key_segment[:, 1:] != layout.key_segment[:, :-1]], dim=1)
        before = before.masked_fill(starts, _NO_KEY)
    return Match(_queries(call), before)


def _queries(call: AttentionCall) -> Tensor:
    ids = token_ids(call, call.layout.query_pos)
    return ids.masked_fill((ids == _NO_KEY) | ~call.query_real, _NO_QUERY)


@dataclass
class MatchedRows:
    """Which rows have a visible match; the same for every layer with the same mask, so worked out once for them."""

    with_self: bool  # whether a query matches itself
    batch: Batch | None = None
    known: list[tuple[Mask, Tensor, Tensor, Tensor]] | None = None

    def of(self, call: AttentionCall, match: Match) -> Bool[Tensor, "batch query_pos"]:
        """True where the row sees a matching key."""
        if self.known is None or self.batch is not call.batch:
            self.batch, self.known = call.batch, []
        layout = call.layout
        for mask, query_pos, key_pos, rows in self.known:
            if mask is layout.mask and query_pos is layout.query_pos and key_pos is layout.key_pos:
                return rows
        rows = self._search(call, match)
        self.known.append((layout.mask, layout.query_pos, layout.key_pos, rows))
        return rows

    def _search(self, call: AttentionCall, match: Match) -> Tensor:
        batch, n_query, n_key = call.size
        step = max(1, _PAIRS // max(1, batch * n_key))
        found = [
            self._some(call, match, slice(at, min(at + step, n_query))) for at in range(0, n_query, step)
        ]
        return torch.cat(found, dim=1)

    def _some(self, call: AttentionCall, match: Match, rows: slice) -> Tensor:
        layout, keys = call.layout, slice(0, call.size[2])
        tile = Tile(
            layout.query_pos[:, rows, None],
            layout.key_pos[:, None, :],
            None if layout.query_segment is None else layout.query_segment[:, rows, None],
            None if layout.key_segment is None else layout.key_segment[:, None, :],
            rows,
            keys,
        )
        hit = match.query_ids[:, rows, None] == match.key_ids[:, None, :]
        seen = layout.mask.visible(tile)
        hit = hit & call.key_real[:, None, :] if seen is None else hit & seen & call.key_real[:, None, :]
        if not self.with_self:
            hit = hit & (tile.query_pos != tile.key_pos)
        return hit.any(-1)
