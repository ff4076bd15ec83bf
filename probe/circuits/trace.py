"""What one forward was seen to do."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import Anatomy
from probe.circuits.nodes import Key, Node
from probe.circuits.taps import Seen, Taps
from probe.errors import CaptureError
from probe.seam.call import AttentionCall

_ALL = slice(None)


@dataclass(frozen=True)
class Trace:
    """Values of nodes by (node, layer), the last position's logits, and what telling heads apart takes."""

    anatomy: Anatomy
    seen: Mapping[Key, Seen]
    logits: Float[Tensor, "pair vocab"]
    given: Mapping[
        int, Float[Tensor, "pair position width"]
    ]  # what W_O was given, by layer, where z was read
    normed: Mapping[int, tuple[Tensor, Tensor]]  # in and out of the norm behind W_O
    calls: Mapping[int, AttentionCall]  # by layer, where patterns, keys or values were read

    @classmethod
    def of(cls, taps: Taps, logits: Tensor) -> "Trace":
        """What the taps saw in the forward that made these logits."""
        return cls(
            taps.anatomy, dict(taps.seen), logits, dict(taps.given), dict(taps.normed), dict(taps.calls)
        )

    def value(self, node: Node, layer: int) -> Float[Tensor, "pair unit position width"]:
        """A node's value; raises `CaptureError` where it was not read."""
        found = self.seen.get((node, layer))
        if found is None:
            read = sorted({name for name, _ in self.seen})
            raise CaptureError(
                f"{node} of layer {layer} was asked; the forward was read for {', '.join(read)}"
            )
        return found.value

    def layers(self, node: Node) -> list[int]:
        """The layers in which a node was seen, ascending."""
        return sorted(layer for name, layer in self.seen if name == node)

    @torch.no_grad()
    def head_writes(
        self, layer: int, rows: slice = _ALL
    ) -> tuple[Float[Tensor, "pair head position d_model"], Float[Tensor, "pair position d_model"]]:
        """What each head adds to the stream in a layer, and what attention adds beside its heads (biases).

        Both sum to ``attn_out``. Where a norm stands between W_O and the stream its scale is held, so that parts of
        what it is given are parts of what it adds. Values must have been read for ``z``; `rows` are the positions
        that are wanted.

        Raises:
            CaptureError: what a head adds cannot be told in this model.
        """
        block = self.anatomy.block(layer)
        projection, given = block.projection, self.given.get(layer)
        if projection is None or given is None or block.attn is None:
            raise CaptureError(
                f"what each head of layer {layer} adds was asked; W_O of {block.place.module} could not be told: use "
                "attn_out"
            )
        size, given = given.shape[:2], given[:, rows]
        heads = projection.head_out(given, list(range(projection.n_heads)))
        rest = projection.module.forward(given.new_zeros(1, 1, given.shape[-1])).expand(*given.shape[:2], -1)
        if block.post is not None:
            before, after = (one.reshape(*size, -1)[:, rows] for one in self.normed[layer])
            rate = block.post.rate(before, after)
            heads = block.post.part(heads, rate[:, None])
            rest = block.post.part(rest, rate) + block.post.bias
        return heads * block.attn.times, rest * block.attn.times
