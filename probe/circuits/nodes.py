"""The places of a model that values are taken from and put into.

A node's values have axes (pair, unit, position, width): units are heads (key/value heads for ``k`` and ``v``) or, where
a node is not per head, one. A pattern's width is its keys.
"""

from typing import Literal, get_args

from probe.errors import UnknownNameError

Node = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]
NODES: tuple[Node, ...] = get_args(Node)

#: What a node is, for tables and errors.
TOLD: dict[str, str] = {
    "resid_pre": "the residual stream entering a block",
    "resid_mid": "the residual stream between attention and MLP",
    "resid_post": "the residual stream leaving a block",
    "attn_out": "what attention adds to the residual stream",
    "mlp_out": "what the MLP adds to the residual stream",
    "z": "a head's output before W_O",
    "q": "a head's queries, as they meet the keys",
    "k": "a key/value head's keys, as they meet the queries",
    "v": "a key/value head's values",
    "pattern": "a head's attention pattern",
}

PER_HEAD: tuple[Node, ...] = ("z", "q", "pattern")
PER_KV_HEAD: tuple[Node, ...] = ("k", "v")
STREAMS: tuple[Node, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")

Key = tuple[Node, int]  # a node of a layer of the decoder
Side = Literal["clean", "corrupt"]  # which prompt of a pair


def node(name: str) -> Node:
    """The node of a name; raises `UnknownNameError` naming those there are."""
    for one in NODES:
        if one == name:
            return one
    raise UnknownNameError.of("node", name, NODES)
