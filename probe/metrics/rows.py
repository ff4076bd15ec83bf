"""Facts about query rows that several metrics share: the mass of a row, and whether a token comes before it."""

from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.seam.call import AttentionCall
from probe.shapes import RowStat

_MASS = "row_mass"


def mass_want(call: AttentionCall) -> Want:
    """What `row_mass` needs: one group that holds every key."""
    return Want(z=False, key_groups={_MASS: _one_group(call.size[2], call.layout.key_pos.device)})


def row_mass(call: AttentionCall, attended: Attended) -> RowStat:
    """Σ_j p of each row: 1, less a learned sink's share, less what an edit took away, 0 where no key is visible."""
    return attended.key_groups[_MASS][..., 0]


@lru_cache(maxsize=16)
def _one_group(n_key: int, device: torch.device) -> Tensor:
    """The same tensor for every metric that asks, so that a union of wants holds it once."""
    return torch.zeros(1, n_key, dtype=torch.int16, device=device)


def index_in_segment(call: AttentionCall) -> Int[Tensor, "batch query_pos"]:
    """Index of each query in its own packed sequence, in the prompt where rows are not packed; -1 for padding."""
    layout = call.layout
    if layout.query_segment is None or layout.key_segment is None:
        return call.query_index
    batch = call.size[0]
    key_segment, key_pos = layout.key_segment.expand(batch, -1).long(), layout.key_pos.expand(batch, -1)
    query_segment, query_pos = (
        layout.query_segment.expand(batch, -1).long(),
        layout.query_pos.expand(batch, -1),
    )
    usable = (key_segment >= 0) & call.key_real
    far = torch.iinfo(torch.int64).max
    start = torch.full((batch, int(key_segment.max().clamp_min(0)) + 1), far, device=key_pos.device)
    start = start.scatter_reduce(1, key_segment.clamp_min(0), key_pos.masked_fill(~usable, far), "amin")
    index = query_pos - start.gather(1, query_segment.clamp(0, start.shape[1] - 1))
    return index.masked_fill((query_segment < 0) | ~call.query_real, -1)


def has_previous(call: AttentionCall) -> Bool[Tensor, "batch query_pos"]:
    """Real queries with a token before them in their own sequence."""
    return index_in_segment(call) >= 1
