"""Attention between sentences, layer by layer: mean pattern cell per (later sentence, earlier sentence), streamed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.prompts.sentences import Sentence
from probe.seam.call import AttentionCall

CHUNK = 128  # sentences whose masses are held at once


@dataclass
class SentenceAttention:
    """An observer that hands on M[a, b] = mean of p over (rows of sentence a) × (keys of sentence b) of every head.

    `take(layer, M [head, sentence, sentence])` is called once per layer of causal decoder self-attention; keys that a
    row cannot see count as cells of 0. Rows and keys outside all sentences (a BOS, the prompt before a response) have
    no part. Masses are summed per sentence as they come; the pattern itself is never held.
    """

    sentences: Sequence[Sentence]
    take: Callable[[int, Float[Tensor, "head sentence source"]], None]
    layers: frozenset[int] | None = None  # None: all

    def want(self, call: AttentionCall) -> Want:
        """The mass of every row on each sentence, in labelings of at most `CHUNK` sentences."""
        if not self._reads(call):
            return Want(z=False)
        label = self._label(call.key_index)
        groups = {}
        for number, first in enumerate(range(0, len(self.sentences), CHUNK)):
            mine = (label >= first) & (label < first + CHUNK)
            groups[self._name(number)] = torch.where(mine, label - first, -1).to(torch.int16)
        return Want(z=False, key_groups=groups)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Add the rows of each sentence, divide by its cells, and hand the layer on."""
        if not self._reads(call):
            return
        rows = self._label(call.query_index)[0]
        inside, sizes = rows >= 0, torch.tensor([len(one) for one in self.sentences], dtype=torch.float64)
        parts = []
        for number in range(len(range(0, len(self.sentences), CHUNK))):
            mass = attended.key_groups[self._name(number)][0][:, inside].double()
            total = mass.new_zeros(mass.shape[0], len(self.sentences), mass.shape[-1])
            parts.append(total.index_add_(1, rows[inside], mass).cpu())
        self.take(call.place.layer, torch.cat(parts, -1) / (sizes[:, None] * sizes))

    def _reads(self, call: AttentionCall) -> bool:
        wanted = self.layers is None or call.place.layer in self.layers
        return wanted and call.place.tower == "decoder" and call.causal

    def _name(self, chunk: int) -> str:
        return f"sentences {id(self)} {chunk}"

    def _label(self, index: Int[Tensor, "1 token"]) -> Int[Tensor, "1 token"]:
        """The sentence of each token; -1 for tokens outside all of them."""
        edges = torch.tensor([one.start for one in self.sentences] + [self.sentences[-1].stop])
        label = torch.bucketize(index, edges.to(index.device), right=True) - 1
        return label.masked_fill(label >= len(self.sentences), -1)
