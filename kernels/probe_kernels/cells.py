"""A rule between stretches of positions: which stretch sees which is looked up in a table."""

from itertools import pairwise

import torch
from torch import Tensor

from probe_kernels.mask import Predicate, Tile, Twin


def between_cells(bounds: tuple[int, ...], shown: Tensor) -> Predicate:
    """Keys of a cell that the query's cell is shown; cell c holds the positions from bounds[c-1] up to bounds[c].

    ``shown`` is bool ``[query cell, key cell]``, one cell more than there are bounds: the first lies before them all,
    the last behind. The twin's numbers are (cells, and the bounds, ascending), its table is `shown`.

    Raises `ValueError` where the bounds do not ascend, or the table has another size.
    """
    size = len(bounds) + 1
    if tuple(shown.shape) != (size, size) or any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(
            f"cells with bounds {list(bounds)} and a table of shape {tuple(shown.shape)} were asked; "
            f"give ascending bounds and one row and column per cell, {size}"
        )

    def cell(positions: Tensor) -> Tensor:
        edges = torch.tensor(bounds, dtype=torch.int64, device=positions.device)
        return torch.searchsorted(edges, positions.contiguous(), right=True)

    def visible(t: Tile) -> Tensor:
        return shown.to(t.key_pos.device)[cell(t.query_pos), cell(t.key_pos)]

    def touch(lo: int, hi: int, key_pos: Tensor) -> Tensor:
        first, last = cell(torch.tensor([lo, hi])).tolist()
        return shown[first : last + 1].any(0).to(key_pos.device)[cell(key_pos)]

    return Predicate(
        f"between_cells({list(bounds)})",
        visible,
        twin=Twin("between_cells", (size, *bounds), shown),
        touch=touch,
    )
