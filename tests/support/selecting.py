"""Attention with planted structure, and the dense view of a selection, for the tests of selectors."""

from dataclasses import dataclass, replace

import torch
from probe_kernels import Layout, Mask, Scores
from probe_kernels.mask import Predicate, causal
from probe_kernels.reference import dense_scores, visible
from probe_kernels.select import Pattern, Selection, Site, random_blocks
from torch import Tensor

WIDTH = 16


@dataclass(frozen=True)
class Call:
    """Scores and layout, and the pairs ``[Q, K]`` that were planted."""

    scores: Scores
    layout: Layout
    planted: Tensor | None = None

    def dense(self) -> Tensor:
        """Float64 scores ``[B, H, Q, K]``, -inf where hidden."""
        return dense_scores(self.scores, self.layout, visible(self.layout, self.scores))

    def probs(self) -> Tensor:
        """The float64 pattern without sinks; rows that see nothing are 0."""
        return torch.softmax(self.dense(), dim=-1).nan_to_num(nan=0.0)

    def select(self, pattern: Pattern, site: Site | None = None) -> Selection:
        """What a pattern selects of this call."""
        return pattern.select(self.scores, self.layout, site or Site())

    def kept(self, pattern: Pattern | Selection, site: Site | None = None) -> Tensor:
        """Bool ``[B, H, Q, K]``: the pairs that are left, under the call's own mask."""
        selection = pattern if isinstance(pattern, Selection) else self.select(pattern, site)
        batch, heads, n_query, _ = self.scores.query.shape
        n_key = self.scores.key.shape[2]
        if selection.visit is not None:
            assert (selection.visit.index < n_key).all()
        kept = selection.visible(self.layout, slice(0, n_query), slice(0, n_key), n_key)
        return (kept & visible(self.layout, self.scores)[:, None]).expand(batch, heads, n_query, n_key)


def make_call(
    n: int = 128,
    *,
    n_query: int | None = None,
    batch: int = 1,
    kv_heads: int = 1,
    group: int = 2,
    plant: str = "none",
    mask: tuple[Predicate, ...] | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    bias: bool = False,
    dtype: torch.dtype = torch.float32,
    back: int = 48,
    seed: int = 0,
) -> Call:
    """Queries are the last `n_query` of `n` tokens. `plant`: stripe (key 37 for every query), slash (`back` behind),
    block (keys 32 to 35 for all later queries), needle (key 70 for the last 16 queries).
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random)

    q, k, v = (normal(batch, heads, n, WIDTH) for heads in (kv_heads * group, kv_heads, kv_heads))
    planted = torch.zeros(n, n, dtype=torch.bool)
    at = torch.arange(n)
    if plant == "slash":
        marks = torch.nn.functional.normalize(normal(n, WIDTH), dim=-1) * 12
        k, q = k * 0.3 + marks, q * 0.3 + marks.roll(back, 0)
        planted = at[:, None] - at == back
    elif plant != "none":
        keys, queries = {
            "stripe": (at == 37, at >= 0),
            "block": ((at >= 32) & (at < 36), at >= 48),
            "needle": (at == 70, at >= n - 16),
        }[plant]
        k[:, :, keys, 0], q[:, :, queries, 0] = 14.0, 5.0
        planted = queries[:, None] & keys
    n_query = n if n_query is None else n_query
    heads = kv_heads * group
    scores = Scores(
        q[:, :, n - n_query :].to(dtype),
        k.to(dtype),
        v.to(dtype),
        scale=WIDTH**-0.5,
        softcap=softcap,
        alibi=torch.rand(heads, generator=random) * 0.1 if alibi else None,
        bias=normal(1, heads, n_query, n) if bias else None,
    )
    layout = Layout(Mask((causal(),) if mask is None else mask), at[None, n - n_query :], at[None])
    return Call(scores, layout, planted.tril()[n - n_query :])


def padded(call: Call, left: int, right: int) -> Call:
    """The same prefill with poisoned padding on either side."""
    n = call.scores.key.shape[2]

    def wide(x: Tensor) -> Tensor:
        out = torch.full((*x.shape[:2], left + n + right, x.shape[3]), torch.nan, dtype=x.dtype)
        out[:, :, left : left + n] = x
        return out

    one = call.scores
    at = torch.arange(left + n + right)
    real = ((at >= left) & (at < left + n))[None]
    pos = (at - left).clamp(0, n - 1)[None]
    assert one.value is not None
    scores = replace(one, query=wide(one.query), key=wide(one.key), value=wide(one.value))
    return Call(scores, Layout(call.layout.mask, pos, pos, query_real=real, key_real=real))


def joined(*calls: Call) -> Call:
    """Calls of one size as the rows of one batch."""

    def cat(of: str, name: str) -> Tensor:
        return torch.cat([getattr(getattr(call, of), name) for call in calls])

    first = calls[0]
    scores = replace(first.scores, **{name: cat("scores", name) for name in ("query", "key", "value")})
    layout = {name: cat("layout", name) for name in ("query_pos", "key_pos", "query_real", "key_real")}
    return Call(scores, Layout(first.layout.mask, **layout))


def block_any(kept: Tensor, block: int) -> Tensor:
    """Bool ``[..., Q, K]`` as blocks of pairs, any of each: ``[..., I, J]``."""
    q, k = kept.shape[-2:]
    kept = torch.nn.functional.pad(kept, (0, -k % block, 0, -q % block))
    kept = kept.reshape(*kept.shape[:-2], -(-q // block), block, -(-k // block), block)
    return kept.any(-1).any(-2)


def density(call: Call, kept: Tensor) -> Tensor:
    """Share of the visible pairs, ``[B, H]``."""
    seen = visible(call.layout, call.scores).expand(kept.shape[0], -1, -1)
    return kept.sum((2, 3)) / seen.sum((1, 2))[:, None]


def random_share(call: Call, share: Tensor, block: int, planted: Tensor) -> float:
    """How much of the planted pairs blocks drawn by lot keep, at the density of a selection, over 8 draws."""
    density = float(share.mean())
    lots = [call.kept(random_blocks(density=density, block=block, seed=seed)) for seed in range(8)]
    return float(sum((lot & planted).sum((2, 3)).div(planted.sum()).mean() for lot in lots) / len(lots))
