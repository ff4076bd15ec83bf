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
    """Entropy of each head's attention at `queries` in nats, the first token left out and the rest scaled to sum to 1.

    Without the first token, where most heads rest, low entropy means that a head looks at one thing. A head that pays
    the rest less than a thousandth has no such entropy (NaN).
    """
    rows, made = torch.arange(len(queries)), {}
    for layer in trace.layers("pattern"):
        rest = trace.value("pattern", layer)[rows, :, queries, 1:].double().cpu()
        mass = rest.sum(-1)
        shares = rest / mass[..., None].clamp_min(1e-12)
        entropy = -torch.xlogy(shares, shares).sum(-1)
        made[layer] = torch.where(mass >= 1e-3, entropy, torch.nan).T
    return made
