"""What a circuit is made of: heads and MLPs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from probe.circuits.nodes import Key, Node
from probe.circuits.trace import Trace

Parts = Literal["heads", "mlps", "heads+mlps"]


@dataclass(frozen=True, order=True)
class Member:
    """A head (by its output before W_O), or the MLP of a layer."""

    layer: int
    node: Literal["mlp_out", "z"]
    unit: int = 0

    @property
    def name(self) -> str:
        """``L3.H5`` or ``L3.MLP``."""
        return f"L{self.layer}.MLP" if self.node == "mlp_out" else f"L{self.layer}.H{self.unit}"

    @property
    def key(self) -> Key:
        """Where its value is."""
        return (self.node, self.layer)


Circuit = frozenset[Member]


def nodes_of(parts: Parts) -> list[Node]:
    """The nodes that hold the values of heads, of MLPs, or of both."""
    asked = parts.split("+")
    heads: list[Node] = ["z"] if "heads" in asked else []
    return [*heads, "mlp_out"] if "mlps" in asked else heads


def members_of(trace: Trace) -> list[Member]:
    """Every head and MLP that was read, layer by layer."""
    found = [
        Member(layer, node, unit)
        for node, layer in trace.seen
        if node in ("z", "mlp_out")
        for unit in range(trace.value(node, layer).shape[1])
    ]
    return sorted(found)


def names(members: Iterable[Member]) -> list[str]:
    """Their names, in the order given."""
    return [one.name for one in members]
