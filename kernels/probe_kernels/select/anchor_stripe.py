"""Single keys that come within theta nats of an anchor: the best score among the first and the nearest keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import everything, forced_keys
from probe_kernels.select.sight import Sight
from probe_kernels.select.telling import need_count, need_nats, spec
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit

_SHARE = 4  # a super-block is at most this part of the keys: else one super-block, which keeps its own keys, were all


@dataclass(frozen=True)
class AnchorStripe:
    """See `anchor_stripe`."""

    theta: float = 12.0
    block: int = 128
    step: int = 16
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_nats("anchor_stripe", "theta", self.theta)
        need_count("anchor_stripe", "block", self.block, "it counts the queries whose mean is compared")
        need_count("anchor_stripe", "step", self.step, "it counts the blocks that share their stripes")

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("anchor_stripe", **{**vars(self), "theta": float(self.theta)})

    def steps(self, n_key: int) -> int:
        """Blocks per super-block in a call with so many keys: `step`, or fewer, so that four super-blocks fit."""
        return max(1, min(self.step, n_key // (_SHARE * self.block)))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The keys that each super-block of queries keeps."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            if sight.n_key <= self.block:
                return everything(sight)
            rows = self.block * self.steps(sight.n_key)
            first = forced_keys(sight, rows, self.block, first=True, diagonal=False)
            own = forced_keys(sight, rows, self.block, first=False, diagonal=True)
            kept = self._hits(sight, rows, (first | own)[:, 0])
            # One set of keys: what is first, near and hit is listed once.
            kept = kept | (first if self.keep_first else False) | (own if self.keep_diagonal else False)
            return Selection(visit=Visit.of_keys(kept & sight.seen(rows), rows))

    def _hits(self, sight: Sight, rows: int, region: Tensor) -> Tensor:
        """Keys within theta of the anchor of some block of each super-block, bool ``[B, H, S, K]``."""
        key = sight.real_key()
        query = sight.mean_query(self.block)
        per_super = rows // self.block
        hits: list[Tensor] = []
        for i, part in enumerate(sight.ground.runs(self.block)):
            s = sight.mean_scores(query[:, :, i, None], key)[:, :, 0]
            lean = sight.lean(part)
            s = s if lean is None else s + lean
            hit = s + self.theta >= _anchor(sight, part, region[:, i // per_super])[..., None]
            if i % per_super:
                hits[-1] |= hit
            else:
                hits.append(hit)
        return torch.stack(hits, dim=2)


def anchor_stripe(
    theta: float = 12.0,
    block: int = 128,
    step: int = 16,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> AnchorStripe:
    """Keeps the first block, a super-block's own keys, and every key whose score comes near the best of those.

    The anchor of a row is its largest score among the first block and its super-block of block·step tokens. Key j is
    hit if softcap(scale · mean(q) · k_j) + mean bias + theta ≥ mean(anchor), means over the real rows of a block; the
    hits of a super-block's blocks are joined, and each key is listed once. What is dropped weighs about e^-theta
    or less against the best key of an average row. `theta` is in nats, to be read against the spread of the head's
    scores: a head whose scores lie within theta of each other keeps everything.

    In calls with fewer than 4·block·step keys a super-block has fewer blocks, so that it is a quarter of the keys.
    Raises `ValueError` where a number is out of range. AnchorAttention, arXiv 2505.23520.
    """
    return AnchorStripe(theta, block, step, keep_first, keep_diagonal)


def _anchor(sight: Sight, rows: slice, region: Tensor) -> Tensor:
    """Mean over real rows of the largest score in a region of keys ``[B, K]``: ``[B, H]``; -inf where none is seen."""
    top: Tensor | None = None
    for keys in _stretches(region):
        s = sight.strip(rows, keys).masked_fill(~region[:, None, None, keys], -torch.inf).amax(-1)
        top = s if top is None else torch.maximum(top, s)
    if top is None:
        return torch.full((sight.batch, sight.heads), -torch.inf, device=sight.device)
    live = sight.query_real[:, None, rows] & (top > -torch.inf)
    count = live.sum(-1)
    mean = top.masked_fill(~live, 0.0).sum(-1) / count.clamp_min(1)
    return mean.masked_fill(count == 0, -torch.inf)


def _stretches(region: Tensor) -> Iterator[slice]:
    """Runs of keys that are in the region of some batch row."""
    some = torch.nn.functional.pad(region.any(0).long(), (1, 1)).diff()
    starts, stops = (some == 1).nonzero()[:, 0].tolist(), (some == -1).nonzero()[:, 0].tolist()
    return (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
