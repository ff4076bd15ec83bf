"""What each part of a model adds to the residual stream: the embedding, every head, every MLP."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import Anatomy
from probe.circuits.members import Member
from probe.circuits.nodes import Node
from probe.circuits.trace import Trace

EMBEDDING = "embedding"
READS: tuple[Node, ...] = ("resid_pre", "z", "mlp_out")  # what a trace must hold


@dataclass(frozen=True)
class Senders:
    """The parts in the order in which they write, the embedding (no member) first."""

    members: tuple[Member | None, ...]

    @classmethod
    def of(cls, anatomy: Anatomy, trace: Trace) -> "Senders":
        """Those of a decoder, whose heads a trace has seen."""
        found: list[Member | None] = [None]
        for block in anatomy.blocks:
            layer = block.place.layer
            if ("z", layer) in trace.seen:
                found += [Member(layer, "z", head) for head in range(trace.value("z", layer).shape[1])]
            if ("mlp_out", layer) in trace.seen:
                found.append(Member(layer, "mlp_out"))
        return cls(tuple(found))

    @property
    def names(self) -> list[str]:
        """``embedding``, ``L0.H0``, …, ``L0.MLP`` and so on."""
        return [EMBEDDING if one is None else one.name for one in self.members]

    def before(self, layer: int, *, heads: bool = False) -> int:
        """How many of them write before a layer reads its input; with its own heads, before its MLP reads."""
        return sum(
            one is None or one.layer < layer or (heads and one.layer == layer and one.node == "z")
            for one in self.members
        )


def writes(trace: Trace, layer: int) -> Float[Tensor, "pair sender position d_model"]:
    """What each sender of a layer adds, in the order of `Senders`; the embedding comes with the first layer.

    Raises:
        CaptureError: what a head adds cannot be told in this model.
    """
    parts: list[Tensor] = []
    if layer == trace.layers("resid_pre")[0]:
        parts.append(trace.value("resid_pre", layer).detach())
    if ("z", layer) in trace.seen:
        parts.append(trace.head_writes(layer)[0])
    if ("mlp_out", layer) in trace.seen:
        parts.append(trace.value("mlp_out", layer).detach())
    return torch.cat(parts, dim=1)
