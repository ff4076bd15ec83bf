"""What rows may see, by the mask alone: for baselines that spread a row's attention over all it could look at."""

import torch
from jaxtyping import Bool, Float
from probe_kernels.chunks import Ground

from probe.seam.call import AttentionCall

_ROWS = 256  # rows of a mask that are looked at together


def sight(call: AttentionCall, rows: slice) -> Bool[torch.Tensor, "batch row key_pos"]:
    """Which keys the mask shows to some rows, padding hidden."""
    n, n_query, n_key = call.size
    seen = Ground(call.layout, n_query, n_key).tile(rows, slice(0, n_key))
    shape = (n, rows.stop - rows.start, n_key)
    if seen is None:
        return torch.ones(shape, dtype=torch.bool, device=call.layout.key_pos.device)
    return seen.expand(shape)


def uniform_share(
    call: AttentionCall, inside: Bool[torch.Tensor, "batch key_pos"]
) -> Float[torch.Tensor, "batch query_pos"]:
    """Share of the keys a row sees that are `inside`: its mass there if it looked at all alike; 0 if it sees none."""
    parts = []
    for start in range(0, call.size[1], _ROWS):
        seen = sight(call, slice(start, min(start + _ROWS, call.size[1])))
        within = (seen & inside[:, None]).sum(-1)
        parts.append(within.double() / seen.sum(-1).clamp_min(1))
    return torch.cat(parts, 1)


def uniform_column(call: AttentionCall) -> Float[torch.Tensor, "batch key_pos"]:
    """What every key would receive if all rows looked at all keys that they see alike, float64."""
    total = torch.zeros(call.size[0], call.size[2], dtype=torch.float64, device=call.layout.key_pos.device)
    for start in range(0, call.size[1], _ROWS):
        seen = sight(call, slice(start, min(start + _ROWS, call.size[1]))).double()
        total += (seen / seen.sum(-1, keepdim=True).clamp_min(1.0)).sum(1)
    return total
