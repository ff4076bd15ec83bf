"""Where heads look: attention from one marked position to another, pair by pair."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.trace import Trace

Positions = Int[Tensor, " pair"]
ByLayer = dict[int, Float[Tensor, "head pair"]]


def attention(trace: Trace, queries: Positions, keys: Positions) -> ByLayer:
    """The attention that each head pays from `queries` to `keys`, 0 to 1; patterns must have been read."""
    rows = torch.arange(len(queries))
    return {
        layer: trace.value("pattern", layer)[rows, :, queries, keys].double().cpu().T
        for layer in trace.layers("pattern")
    }


def entropy_without_first(trace: Trace, queries: Positions) -> ByLayer:
    """Entropy of each head's attention at `queries` in nats, without the first token (see `rest_entropy`)."""
    rows = torch.arange(len(queries))
    return {
        layer: rest_entropy(trace.value("pattern", layer)[rows, :, queries].double().cpu()).T
        for layer in trace.layers("pattern")
    }


def rest_entropy(attention: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows"]:
    """Entropy in nats of attention without its first key, the rest scaled to sum to 1.

    Without the first token, where most heads rest, low entropy means that a head looks at one thing. Where the rest is
    paid less than a thousandth there is no such entropy (NaN).
    """
    rest = attention[..., 1:]
    mass = rest.sum(-1)
    shares = rest / mass[..., None].clamp_min(1e-12)
    return torch.where(mass >= 1e-3, -torch.xlogy(shares, shares).sum(-1), torch.nan)
