"""The float64 reference: dense, plain, and the judge of every other path. Needs memory for n×n; small inputs only."""

import torch
from torch import Tensor

from probe_kernels.mask import Tile
from probe_kernels.types import Attended, BlockEdit, Edits, Layout, Scores, Want
from probe_kernels.visit import Visit


def attend(
    scores: Scores, layout: Layout, want: Want, edits: Edits | None = None, *, visit: Visit | None = None
) -> Attended:
    """Attention and its statistics from the dense pattern in float64; see `probe_kernels.attend`."""
    edits = edits or Edits()
    seen = _narrowed(visible(layout, scores), visit)
    s = dense_scores(scores, layout, seen)
    for edit in edits.scores:
        s = _edited(s, edit).masked_fill(~seen, -torch.inf)
    lse = torch.logsumexp(s, dim=-1)
    sink_mass = None
    if scores.sinks is not None:
        sinks = scores.sinks.double()
        sinks = sinks[None, :, None] if sinks.ndim == 1 else sinks
        lse = torch.logaddexp(lse, sinks.expand_as(lse))
        sink_mass = torch.exp(sinks - lse)
    p = torch.exp(s - lse[..., None]).masked_fill(s == -torch.inf, 0.0)
    for edit in edits.probs:
        p = _edited(p, edit)
        sink_mass = _edited_sinks(sink_mass, edit)
    plain = Want(**{**vars(want), "lse": False, "table": 0})
    value = scores.value if want.z or want.parts else None
    out = statistics(p, layout, plain, value, sink_mass=sink_mass, visit=visit)
    out.sink_mass = None if sink_mass is None else sink_mass.float()
    out.lse = lse.float() if want.lse else None
    if want.table:
        out.table, out.table_block = _table(s, want.table).float(), want.table
    return out


def _edited(block: Tensor, edit: BlockEdit) -> Tensor:
    heads = list(range(block.shape[1]) if edit.heads is None else edit.heads)
    out = block.clone()
    if heads:
        every = slice(0, block.shape[2]), slice(0, block.shape[3])
        out[:, heads] = edit.apply(block[:, heads], *every).double()
    return out


def _edited_sinks(mass: Tensor | None, edit: BlockEdit) -> Tensor | None:
    if mass is None or edit.sinks is None:
        return mass
    heads = list(range(mass.shape[1]) if edit.heads is None else edit.heads)
    out = mass.clone()
    if heads:
        out[:, heads] = edit.sinks(mass[:, heads], slice(0, mass.shape[2])).double()
    return out


def statistics(
    pattern: Tensor,
    layout: Layout,
    want: Want,
    value: Tensor | None = None,
    *,
    sink_mass: Tensor | None = None,
    visit: Visit | None = None,
) -> Attended:
    """The wanted statistics of a pattern ``[B, H, Q, K]`` that somebody else made, for instance eager weights.

    Rows may sum to less than one; `sink_mass` ``[B, H, Q]`` counts as one more outcome in the entropy. What `visit`
    hides does not count as visible.

    Raises:
        ValueError: lse or the block-LSE table was wanted (a pattern does not tell them), or z without a value.
    """
    if want.lse or want.table:
        raise ValueError(
            "lse and table cannot be had from a pattern alone; want them from scores, or leave them out"
        )
    if (want.z or want.parts) and value is None:
        raise ValueError("z or parts were wanted, but there is no value; give a value or want neither")
    p = pattern.double()
    seen = _narrowed(_visible(layout, p.shape[0], p.shape[2], p.shape[3]), visit)
    out = Attended(n_keys=p.shape[3])
    _rows(out, p, layout, want, seen)
    if want.entropy:
        entropy = -torch.special.xlogy(p, p).sum(-1)
        out.entropy = entropy if sink_mass is None else entropy - torch.special.xlogy(sink_mass, sink_mass)
    _columns(out, p, layout, want, seen)
    if value is not None:
        _values(out, p, layout, want, value, seen)
    for name, function in want.rows.items():
        out.rows[name] = function(p.float(), slice(0, p.shape[2]), slice(0, p.shape[3]))
    return out.in_float32()


def visible(layout: Layout, scores: Scores) -> Tensor:
    """Which keys each query sees, padding included: bool ``[B, Q, K]``."""
    return _visible(layout, scores.query.shape[0], scores.query.shape[2], scores.key.shape[2])


def _visible(layout: Layout, batch: int, n_query: int, n_key: int) -> Tensor:
    tile = Tile(
        layout.query_pos[:, :, None],
        layout.key_pos[:, None, :],
        None if layout.query_segment is None else layout.query_segment[:, :, None],
        None if layout.key_segment is None else layout.key_segment[:, None, :],
        slice(0, n_query),
        slice(0, n_key),
    )
    seen = layout.mask.visible(tile)
    if seen is None:
        seen = torch.ones(1, 1, 1, dtype=torch.bool, device=layout.key_pos.device)
    if layout.key_real is not None:
        seen = seen & layout.key_real[:, None, :]
    return seen.expand(batch, n_query, n_key)


def _narrowed(seen: Tensor, visit: Visit | None) -> Tensor:
    """Bool ``[B, h, Q, K]``: what mask and visit show together; h is 1 where all heads see alike."""
    seen = seen[:, None]
    if visit is None:
        return seen
    n_query, n_key = seen.shape[2:]
    return seen & visit.visible(slice(0, n_query), slice(0, n_key), n_key)


def _alike(count: Tensor) -> Tensor:
    """A count ``[B, h, n]`` without its axis of heads where they all see alike."""
    return count[:, 0] if count.shape[1] == 1 else count


def dense_scores(scores: Scores, layout: Layout, seen: Tensor) -> Tensor:
    """Scores in float64, ``[B, H, Q, K]``, -inf where hidden; ``seen [B, Q, K]`` or ``[B, h, Q, K]``."""
    seen = seen if seen.ndim == 4 else seen[:, None]
    q, k = scores.query.double(), scores.key.double()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    s = scores.scale * torch.matmul(q, k.transpose(-1, -2))
    if scores.softcap is not None:
        s = scores.softcap * torch.tanh(s / scores.softcap)
    if scores.bias is not None:
        s = s + scores.bias.double()
    if scores.alibi is not None:
        gap = layout.query_pos[:, None, :, None] - layout.key_pos[:, None, None, :]
        s = s - scores.alibi.double()[None, :, None, None] * gap
    return s.masked_fill(~seen | (s <= -1e30), -torch.inf)


def _rows(out: Attended, p: Tensor, layout: Layout, want: Want, seen: Tensor) -> None:
    gap = layout.query_pos[:, :, None] - layout.key_pos[:, None, :]
    if want.visible:
        out.visible = _alike(seen.sum(-1))
    if want.square:
        out.square = p.square().sum(-1)
    if want.top:
        out.top_p, index = p.max(-1)
        out.top_index = index.masked_fill(out.top_p == 0, -1)
    if want.distance:
        out.distance = (p * gap.abs()[:, None]).sum(-1)
    order = layout.key_pos.argsort(dim=-1, stable=True).expand(p.shape[0], -1)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(p.shape[3], device=p.device).expand_as(order)
    )
    for n in want.first:
        # A key is among the first n if fewer than n visible keys come before it.
        earlier = (rank[:, :, None] < rank[:, None, :]).double()  # [B, key, key]
        among = torch.matmul(seen.double(), earlier[:, None]) < n
        out.first[n] = (p * (among & seen)).sum(-1)
    for offset in want.offsets:
        out.offsets[offset] = (p * (gap == offset)[:, None]).sum(-1)
    for name, match in want.matches.items():
        same = match.query_ids[:, :, None] == match.key_ids[:, None, :]
        out.matches[name] = (p * same[:, None]).sum(-1)
    for name, labels in want.key_groups.items():
        groups = [(p * (labels == g)[:, None, None, :]).sum(-1) for g in range(_size(labels))]
        out.key_groups[name] = torch.stack(groups, dim=-1) if groups else p.new_zeros(*p.shape[:3], 0)


def _columns(out: Attended, p: Tensor, layout: Layout, want: Want, seen: Tensor) -> None:
    real = layout.query_real
    if real is None:
        real = torch.ones(1, p.shape[2], dtype=torch.bool, device=p.device)
    counted = seen & real[:, None, :, None]
    p = p.masked_fill(~real[:, None, :, None], 0.0)
    gap = layout.query_pos[:, :, None] - layout.key_pos[:, None, :]
    if want.column:
        out.column, out.seen_by = p.sum(2), _alike(counted.sum(2))
    for lo, hi in want.bands:
        inside = ((gap >= lo) & (gap <= hi))[:, None]
        out.bands[lo, hi] = (p * inside).sum(2)
        out.band_seen_by[lo, hi] = _alike((counted & inside).sum(2))
    for name, labels in want.query_groups.items():
        groups = [(p * (labels == g)[:, None, :, None]).sum(2) for g in range(_size(labels))]
        out.query_groups[name] = (
            torch.stack(groups, dim=2) if groups else p.new_zeros(*p.shape[:2], 0, p.shape[3])
        )


def _values(out: Attended, p: Tensor, layout: Layout, want: Want, value: Tensor, seen: Tensor) -> None:
    v = value.double().repeat_interleave(p.shape[1] // value.shape[1], dim=1)
    if want.z:
        out.z = _weigh(p, v, seen).to(value.dtype)
    for name in want.parts:
        labels = want.key_groups[name]
        parts = [
            _weigh(p, torch.where((labels == g)[:, None, :, None], v, 0.0), seen)
            for g in range(_size(labels))
        ]
        empty = p.new_zeros(*p.shape[:3], 0, v.shape[-1])
        out.parts[name] = torch.stack(parts, dim=3) if parts else empty


def _weigh(p: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Σ p v, where a value that is not finite reaches (as NaN) only the rows that see its key."""
    bad = ~v.isfinite()
    z = torch.matmul(p, v.masked_fill(bad, 0.0))
    met = seen | (p != 0)
    return z.masked_fill(torch.matmul(met.double(), bad.double()) > 0, torch.nan)


def _table(s: Tensor, size: int) -> Tensor:
    s = torch.nn.functional.pad(s, (0, -s.shape[-1] % size), value=-torch.inf)
    return torch.logsumexp(s.reshape(*s.shape[:3], -1, size), dim=-1).transpose(-1, -2)


def _size(labels: Tensor) -> int:
    return int(labels.max()) + 1 if labels.numel() else 0
