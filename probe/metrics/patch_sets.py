"""HiPrune's three sets of tokens: anchors, the buffers around them, and registers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

ANCHOR, BUFFER, REGISTER = 1, 2, 3  # 0 = dropped


def patch_sets(
    middle: Float[Tensor, "patch"],
    deep: Float[Tensor, "patch"],
    keep: int,
    alpha: float,
    wide: int,
    *,
    wrap: bool = False,
) -> Int[Tensor, "patch"]:
    """The set of every patch: `ANCHOR`, `BUFFER`, `REGISTER` or 0.

    Anchors are the ``round(keep · alpha / 5)`` patches (one at least) that receive most in the middle layer; buffers
    are their neighbours left, right, above and below on a grid `wide` patches wide; registers are those that receive
    most in the deep layer and are neither, until `keep` patches are chosen. Of equals the first wins. With `wrap`,
    left and right run over the ends of rows, as in the authors' code.
    """
    n = len(middle)
    sets = torch.zeros(n, dtype=torch.int64)
    count = min(keep, max(1, round(keep * alpha / 5)))
    anchors = middle.argsort(descending=True, stable=True)[:count]
    for step in (-1, 1, -wide, wide):
        at = anchors + step
        inside = (at >= 0) & (at < n)
        if abs(step) == 1 and not wrap:
            inside &= at // wide == anchors // wide
        sets[at[inside]] = BUFFER
    sets[anchors] = ANCHOR
    surplus = int((sets > 0).sum()) - keep
    if surplus > 0:  # a budget below one anchor's neighbours: the buffers that receive least go
        buffers = (sets == BUFFER).nonzero()[:, 0]
        least = middle[buffers].argsort(stable=True)[:surplus]
        sets[buffers[least]] = 0
    rest = deep.masked_fill(sets > 0, -torch.inf).argsort(descending=True, stable=True)
    sets[rest[: max(0, -surplus)]] = REGISTER
    return sets
