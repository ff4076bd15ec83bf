"""Which tokens can influence which, after some layers of a pattern."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probe_kernels.mask import Mask, causal
from probe_kernels.select.base import Pattern, Selection, Site
from probe_kernels.types import Layout, Scores

_DENSE = 4096  # tokens up to which the dense answer is given
_PAIRS = 2**22  # pairs that are looked at a time


def reach(pattern: Pattern, depth: int, n: int, *, heads: int = 1, mask: Mask | None = None) -> Tensor:
    """Bool ``[n, n]``: whether token j can influence token i within `depth` layers; the residual stream carries i.

    A token takes up what any head of a layer keeps. After d layers of `sliding(w)` a token has seen d·(w-1) tokens
    back, after d layers of `power_of_two` every block at a distance below 2^d.

    Args:
        pattern: A pattern that does not look at scores.
        depth: Layers, from 0 (each token itself).
        n: Tokens, up to 4096; `reach_of` streams more.
        heads: Query heads of a layer, for patterns that differ by head.
        mask: The model's own mask; causal if left out.

    Raises:
        ValueError: a pattern that looks at scores, a negative depth, no token or too many for a dense answer.
    """
    if not 0 < n <= _DENSE:
        raise ValueError(
            f"reach over {n} tokens was asked, but it is dense: give 1 to {_DENSE}, or use reach_of"
        )
    found = torch.eye(n, dtype=torch.bool)
    for selection, layout in _layers(pattern, depth, n, heads, mask):
        step = torch.cat([_kept(selection, layout, rows, n) for rows in _runs(n, heads)])
        found |= (step.float() @ found.float()) > 0
    return found


def reach_of(
    pattern: Pattern,
    n: int,
    depth: int,
    query: int | Sequence[int],
    *,
    heads: int = 1,
    mask: Mask | None = None,
) -> Tensor:
    """Bool ``[n]``: the tokens that can influence some token of `query` within `depth` layers, in O(n) memory.

    See `reach` for the rest; raises `ValueError` as well for a query that is not one of the n tokens.
    """
    asked = [query] if isinstance(query, int) else list(query)
    if not asked or not all(0 <= one < n for one in asked):
        raise ValueError(f"reach_of was asked for the tokens {asked} of {n}; give some of 0 to {n - 1}")
    found = torch.zeros(n, dtype=torch.bool)
    found[asked] = True
    # From the last layer down: what the queries take up there is what has to be reached before.
    for selection, layout in reversed(list(_layers(pattern, depth, n, heads, mask))):
        taken = found.clone()
        for rows in _runs(n, heads):
            if bool(found[rows].any()):
                taken |= _kept(selection, layout, rows, n)[found[rows]].any(0)
        found = taken
    return found


def _layers(
    pattern: Pattern, depth: int, n: int, heads: int, mask: Mask | None
) -> list[tuple[Selection, Layout]]:
    """What the pattern keeps in each layer, and where."""
    if pattern.learned:
        raise ValueError(
            f"the reach of {pattern.name} was asked, but it looks at scores: give a pattern that does not"
        )
    if depth < 0:
        raise ValueError(f"a reach of {depth} layers was asked; give 0 or more")
    positions = torch.arange(n)[None]
    layout = Layout(Mask((causal(),)) if mask is None else mask, positions, positions)
    nothing = torch.zeros(1, heads, n, 1)
    scores, memory = Scores(nothing, nothing, None, scale=1.0), dict[str, object]()
    return [(pattern.select(scores, layout, Site(layer, memory)), layout) for layer in range(depth)]


def _runs(n: int, heads: int) -> list[slice]:
    size = max(1, _PAIRS // (n * heads))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _kept(selection: Selection, layout: Layout, rows: slice, n: int) -> Tensor:
    """Bool ``[rows, n]``: what some head keeps of what the mask shows."""
    narrowed = Selection(layout.mask, None).visible(layout, rows, slice(0, n), n)
    return (selection.visible(layout, rows, slice(0, n), n) & narrowed).any(1)[0]
