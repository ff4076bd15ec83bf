"""How much each query attends to each document when positions play no part, and the places that follow from it.

PINE's order (Wang et al. 2024, arXiv:2407.01100): importance = the mean, over a document's tokens, of the softmax
attention without RoPE; for the queries of a document, summed over them. The more important, the closer to the query.
Logarithms throughout, so that no document's importance rounds to nothing.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from probe_kernels.types import Scores
from torch import Tensor

from probe.errors import InterventionError
from probe.interventions.blocks import Blocks
from probe.interventions.rotary import Rotation
from probe.interventions.widening import Wider, hidden_again, own_mask
from probe.seam.call import AttentionCall

_NUMBERS = 2**21  # numbers in one block of scores
_LEAST, _MOST = -1e30, 1e30
# Differences of log importance that count as none: documents of the same words must not be told apart by rounding.
_ALIKE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Free:
    """One layer's queries and keys without RoPE, for some of its heads."""

    call: AttentionCall
    rotation: Rotation
    blocks: Blocks
    heads: tuple[int, ...]

    def turned_back(self) -> "Free":
        """The same with its queries and keys computed: once, outside the blocks that a backward pass computes again."""
        _ = self.query, self.key
        return self

    @cached_property
    def dtype(self) -> torch.dtype:
        """What is computed in: float64 where the model is, else float32."""
        return torch.float64 if self._scores.query.dtype == torch.float64 else torch.float32

    @cached_property
    def query(self) -> Float[Tensor, "batch chosen query_pos dim"]:
        """Queries as they were before RoPE, times scale."""
        given = self._scores.query[:, list(self.heads)]
        turned = self.rotation.undone(given.to(self.dtype), self.call.query_index[:, None], given.dtype)
        return turned * self._scores.scale

    @cached_property
    def key(self) -> Float[Tensor, "batch kv_head key_pos dim"]:
        """Keys as they were before RoPE."""
        given = self._scores.key
        return self.rotation.undone(given.to(self.dtype), self.call.key_index[:, None], given.dtype)

    @cached_property
    def query_block(self) -> Int[Tensor, "batch query_pos"]:
        """The document of each query; -1 = none."""
        return self.blocks.number(self.call.query_index)

    @cached_property
    def key_block(self) -> Int[Tensor, "batch key_pos"]:
        """The document of each key; -1 = none."""
        return self.blocks.number(self.call.key_index)

    @property
    def kv_heads(self) -> list[int]:
        """The key head of each chosen head."""
        group = self.call.n_heads // self.call.n_kv_heads
        return [head // group for head in self.heads]

    def softcapped(self, products: Tensor) -> Tensor:
        """Scores from scaled products."""
        cap = self._scores.softcap
        return products if cap is None else torch.tanh(products / cap) * cap

    def scores(self, rows: slice) -> Float[Tensor, "batch chosen rows key_pos"]:
        """Scores without RoPE of some rows with every key; -inf where the head does not see it."""
        every = slice(0, self.call.size[2])
        products = [
            query[:, rows] @ key[self.kv_heads].transpose(-1, -2)
            for query, key in zip(self.query, self.key, strict=True)
        ]
        free = self.softcapped(torch.stack(products))
        if isinstance(self.call.layout, Wider):
            return hidden_again(self.call, self.heads, free, rows, every)
        return free.masked_fill(~own_mask(self.call, rows, every)[:, None], float("-inf"))

    def of_rows(self, rows: slice) -> Float[Tensor, "batch chosen rows block"]:
        """Log importance of every document to each row by itself; -inf where it sees none of it."""
        scores = self.scores(rows)
        total = scores.logsumexp(-1, keepdim=True)
        sinks = self._scores.sinks
        if sinks is not None:
            sink = (
                sinks[list(self.heads)][None, :, None]
                if sinks.ndim == 1
                else sinks[:, list(self.heads), rows]
            )
            total = torch.logaddexp(total, sink[..., None].to(self.dtype).expand_as(total))
        return (
            self._grouped(scores, self.key_block)
            - self.blocks.length.clamp_min(1).to(self.dtype).log()[:, None, None]
            - _finite(total)
        )

    @cached_property
    def of_documents(self) -> Float[Tensor, "batch chosen query_block block"]:
        """Log importance of every document to each document: summed over its queries."""
        count = self.blocks.length.shape[1]
        shape = (self.call.size[0], len(self.heads), count, count)
        total = torch.full(shape, float("-inf"), dtype=self.dtype, device=self.key.device)
        at = (self.query_block >= 0).any(0).nonzero()[:, 0]
        if not len(at):
            return total
        start, stop = int(at[0]), int(at[-1]) + 1
        step = max(1, _NUMBERS // (shape[0] * shape[1] * self.call.size[2]))
        for first in range(start, stop, step):
            rows = slice(first, min(first + step, stop))
            summed = self._grouped(self.of_rows(rows).transpose(-1, -2), self.query_block[:, rows])
            total = torch.logaddexp(total, summed.transpose(-1, -2))
        return total

    def _grouped(self, x: Tensor, number: Tensor) -> Tensor:
        """The last axis summed per document, in logarithms."""
        parts = []
        for one in range(self.blocks.length.shape[1]):
            inside = (number == one)[:, None, None]
            parts.append(x.masked_fill(~inside, float("-inf")).logsumexp(-1))
        return torch.stack(parts, dim=-1)

    @property
    def _scores(self) -> Scores:
        if self.call.scores is None:
            raise InterventionError(f"{self.call.place.module} gave no queries and keys to look at")
        return self.call.scores

    @torch.no_grad()
    def starts(self, rows: slice, rank: Int[Tensor, "batch block"]) -> Int[Tensor, "batch chosen rows block"]:
        """The position at which each document begins for each row: the least important first, a row's own last.

        Documents that are alike in importance go by `rank`, which says nothing of where they stand. An order has no
        gradient.
        """
        own = self.query_block[:, rows]
        weight = self.of_rows(rows)
        if bool((own >= 0).any()):
            at = own.clamp_min(0)[:, None, :, None].expand(-1, weight.shape[1], -1, weight.shape[3])
            weight = torch.where((own >= 0)[:, None, :, None], self.of_documents.gather(2, at), weight)
        number = torch.arange(weight.shape[-1], device=weight.device)
        weight = weight.clamp_min(_LEAST).masked_fill(own[:, None, :, None] == number, _MOST)
        alike = _ALIKE.get(self._scores.query.dtype, 2e-2)
        return in_order(weight, self.blocks, rank, alike)


def in_order(
    weight: Float[Tensor, "batch chosen rows block"], blocks: Blocks, rank: Tensor, alike: float
) -> Int[Tensor, "batch chosen rows block"]:
    """Where each document begins if they stand by ascending weight behind the prefix; ties go by rank."""
    order = weight.argsort(-1)
    gaps = weight.gather(-1, order).diff(dim=-1, prepend=weight.gather(-1, order[..., :1]))
    level = torch.empty_like(order).scatter_(-1, order, (gaps > alike).cumsum(-1))
    order = (level * weight.shape[-1] + rank[:, None, None]).argsort(-1)
    length = blocks.length[:, None, None].expand_as(order).gather(-1, order)
    begins = blocks.first[:, None, None, None] + length.cumsum(-1) - length
    return torch.empty_like(order).scatter_(-1, order, begins)


def _finite(total: Tensor) -> Tensor:
    """0 for rows that see nothing."""
    return total.masked_fill(total.isneginf(), 0.0)
