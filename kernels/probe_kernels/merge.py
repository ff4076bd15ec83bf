"""Joins attention over two disjoint sets of keys into attention over both: associative, exact, statistics included."""

import torch
from torch import Tensor

from probe_kernels.types import Attended


def merge(a: Attended, b: Attended) -> Attended:
    """Attention of the same queries over the keys of `a` followed by the keys of `b`.

    With w_r = exp(lse_r - lse): z = Σ w_r z_r, every mass and distance likewise, Σp² with w_r², and the entropy by the
    chain rule H = Σ w_r (H_r - log w_r). Both sides need lse; a learned sink may be part of one side only.

    Raises:
        ValueError: lse is missing; both sides hold the sink; or a side holds what cannot be joined afterwards:
            sums over queries (column, bands, query_groups) and rows depend on each row's final normaliser.
    """
    if a.lse is None or b.lse is None:
        raise ValueError("merge needs lse on both sides; attend with Want(lse=True)")
    if a.sink_mass is not None and b.sink_mass is not None:
        raise ValueError("both sides of merge hold the learned sink; give the sinks to one of the two only")
    _refuse_sums(a, b)
    lse = torch.logaddexp(a.lse, b.lse)
    weights = _weight(a.lse, lse), _weight(b.lse, lse)
    out = Attended(lse=lse, n_keys=a.n_keys + b.n_keys)
    for name in ("z", "sink_mass", "distance"):
        setattr(out, name, _mix(getattr(a, name), getattr(b, name), weights, name))
    if out.z is not None and a.z is not None:
        out.z = out.z.to(a.z.dtype)
    out.square = _mix(a.square, b.square, (weights[0].square(), weights[1].square()), "square")
    out.entropy = _entropy(a, b, weights)
    _top(out, a, b, weights)
    if a.visible is not None and b.visible is not None:
        by_head = a.visible.ndim == 3 or b.visible.ndim == 3
        left, right = _by_head(a.visible), _by_head(b.visible)
        out.visible = left + right if by_head else a.visible + b.visible
    for name in ("offsets", "matches", "key_groups", "parts"):
        setattr(out, name, _mix_each(getattr(a, name), getattr(b, name), weights, name))
    out.first = {n: _first(n, a, b, weights) for n in a.first if n in b.first}
    _table(out, a, b)
    return out


def _refuse_sums(a: Attended, b: Attended) -> None:
    for name in ("column", "bands", "query_groups", "rows"):
        if (
            getattr(a, name) or getattr(b, name)
            if name != "column"
            else (a.column is not None or b.column is not None)
        ):
            raise ValueError(
                f"merge cannot join {name}: it depends on each row's final lse; attend over all keys at once for it"
            )


def _weight(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(part > -torch.inf, torch.exp(part - whole), torch.where(part.isnan(), part, 0.0))


def _scaled(weight: Tensor, value: Tensor) -> Tensor:
    """Product of weight and value, where a weight of 0 silences anything."""
    weight = weight.reshape(*weight.shape, *[1] * (value.ndim - weight.ndim))
    return torch.where(weight == 0, 0.0, weight * value.to(weight.dtype))


def _mix(a: Tensor | None, b: Tensor | None, weights: tuple[Tensor, Tensor], name: str) -> Tensor | None:
    if name == "sink_mass":
        one = [_scaled(w, x) for w, x in zip(weights, (a, b), strict=True) if x is not None]
        return one[0] if one else None
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise ValueError(f"only one side of merge holds {name}; want the same on both")
    return _scaled(weights[0], a) + _scaled(weights[1], b)


def _mix_each(
    a: dict[object, Tensor], b: dict[object, Tensor], weights: tuple[Tensor, Tensor], name: str
) -> dict[object, Tensor]:
    if a.keys() != b.keys():
        raise ValueError(
            f"the sides of merge hold different {name}: {list(a)} and {list(b)}; want the same on both"
        )
    mixed: dict[object, Tensor] = {}
    for key in a:
        left, right = _scaled(weights[0], a[key]), _scaled(weights[1], b[key])
        if name in {"key_groups", "parts"}:
            left, right = _as_many_groups(left, right), _as_many_groups(right, left)
        mixed[key] = left + right
    return mixed


def _as_many_groups(one: Tensor, other: Tensor) -> Tensor:
    missing = other.shape[3] - one.shape[3]
    if missing <= 0:
        return one
    return torch.cat((one, one.new_zeros(*one.shape[:3], missing, *one.shape[4:])), dim=3)


def _entropy(a: Attended, b: Attended, weights: tuple[Tensor, Tensor]) -> Tensor | None:
    mixed = _mix(a.entropy, b.entropy, weights, "entropy")
    if mixed is None:
        return None
    left, right = weights
    choice: Tensor = torch.special.xlogy(left, left) + torch.special.xlogy(right, right)
    return mixed - choice


def _top(out: Attended, a: Attended, b: Attended, weights: tuple[Tensor, Tensor]) -> None:
    if a.top_p is None or b.top_p is None or a.top_index is None or b.top_index is None:
        return
    left, right = _scaled(weights[0], a.top_p), _scaled(weights[1], b.top_p)
    other = torch.where(b.top_index < 0, -1, b.top_index + a.n_keys)
    out.top_p = torch.maximum(left, right)
    out.top_index = torch.where(left >= right, torch.where(left > 0, a.top_index, -1), other)


def _by_head(visible: Tensor) -> Tensor:
    """Visible keys ``[B, h, Q]``; under a visit heads may differ."""
    return visible if visible.ndim == 3 else visible[:, None]


def _first(n: int, a: Attended, b: Attended, weights: tuple[Tensor, Tensor]) -> Tensor:
    """The first n of `a`, and where a row saw only m < n keys of a, b's first n - m."""
    if a.visible is None:
        raise ValueError("merging `first` needs the number of visible keys; attend with Want(visible=True)")
    mass = _scaled(weights[0], a.first[n])
    seen = _by_head(a.visible).expand_as(mass)
    for short in torch.unique(n - seen[seen < n]).tolist():
        if short not in b.first:
            raise ValueError(f"merging first={n} needs first={short} of the later keys too; want it there")
        mass = mass + torch.where(seen == n - short, _scaled(weights[1], b.first[short]), 0.0)
    return mass


def _table(out: Attended, a: Attended, b: Attended) -> None:
    if a.table is None or b.table is None:
        return
    if a.table_block != b.table_block or a.n_keys % a.table_block:
        raise ValueError(
            f"tables join only at a block's edge: {a.n_keys} keys with blocks of {a.table_block} and {b.table_block}"
        )
    out.table, out.table_block = torch.cat((a.table, b.table), dim=2), a.table_block
