"""A pattern for each head: everything for heads that look far, little for those that do not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_kernels.chunks import Ground
from probe_kernels.select.base import Pattern, Selection, Site
from probe_kernels.select.full import Full
from probe_kernels.select.telling import need_count
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit

_HEAD = re.compile(r"(?:L(\d+)\.)?H(\d+)")
Place = tuple[int | None, int]  # layer (None: every layer), head


@dataclass(frozen=True)
class PerHead:
    """See `per_head`."""

    given: tuple[tuple[tuple[Place, ...], Pattern], ...]
    default: Pattern
    block: int = 64

    @property
    def learned(self) -> bool:
        """Whether the pattern of some head looks at scores."""
        return any(one.learned for one in self._patterns)

    @property
    def name(self) -> str:
        """The spec that makes it again; patterns inside it have / where they would have a comma."""
        told = [("default", self.default.name)] if not isinstance(self.default, Full) else []
        told += [("block", str(self.block))] if self.block != 64 else []
        told += [("+".join(map(_text, heads)), one.name) for heads, one in self.given]
        return "per_head:" + ",".join(f"{key}={value.replace(',', '/')}" for key, value in told)

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """Each head's own list of keys."""
        n_heads = scores.query.shape[1]
        missing = [_text(place) for heads, _ in self.given for place in heads if place[1] >= n_heads]
        if missing:
            raise ValueError(
                f"{self.name} was asked; layer {site.layer} has {n_heads} heads, and none is {missing[0]}"
            )
        of_head = [self._of(site.layer, head) for head in range(n_heads)]
        if all(isinstance(self._patterns[number], Full) for number in of_head):
            return Selection()
        lists: dict[int, Tensor] = {}
        for number in sorted(set(of_head)):
            memory = site.memory.setdefault(f"per_head {number}", {})
            selection = self._patterns[number].select(scores, layout, Site(site.layer, memory))
            lists[number] = self._listed(selection, layout, scores)
        width = max(index.shape[3] for index in lists.values())
        batch = max(index.shape[0] for index in lists.values())
        rows = []
        for head, number in enumerate(of_head):
            index = lists[number]
            own = index[:, [head if index.shape[1] > 1 else 0]].expand(batch, -1, -1, -1)
            rows.append(torch.nn.functional.pad(own, (0, width - own.shape[3]), value=-1))
        return Selection(visit=Visit(self.block, torch.cat(rows, dim=1)))

    @property
    def _patterns(self) -> tuple[Pattern, ...]:
        return (*(one for _, one in self.given), self.default)

    def _of(self, layer: int, head: int) -> int:
        """The number of a head's pattern; one that names the layer goes before one that does not."""
        for place in ((layer, head), (None, head)):
            for number, (heads, _) in enumerate(self.given):
                if place in heads:
                    return number
        return len(self.given)

    def _listed(self, selection: Selection, layout: Layout, scores: Scores) -> Tensor:
        """The keys that some query of each block keeps and sees, ``[b, h, blocks, width]``."""
        n_query, n_key = scores.query.shape[2], scores.key.shape[2]
        ground, every, found = Ground(layout, n_query, n_key), slice(0, n_key), []
        for rows in ground.runs(self.block):
            kept, seen = selection.visible(layout, rows, every, n_key), ground.tile(rows, every)
            if seen is not None:
                kept = kept & seen[:, None]
            if ground.query_real is not None:
                kept = kept & ground.query_real[:, None, rows, None]
            found.append(kept.any(2))
        return Visit.of_keys(torch.stack(found, dim=2), self.block).index


def per_head(
    heads: Mapping[str | int, Pattern] | Mapping[str, Pattern],
    default: Pattern | None = None,
    block: int = 64,
) -> PerHead:
    """Another pattern for some heads: ``{"H0+H3": full(), "L2.H1": sliding(64)}``, and `default` for all others.

    A head is written ``H3`` (or 3; in every layer) or ``L2.H3``, several are joined by +; without a default the others
    keep everything. Lists are kept for `block` queries at a time: a key that one of them keeps (and sees) is kept by
    all of them that see it, so that each head's density is a little above its pattern's; ``block=1`` is exact and slow.
    In a spec, a pattern inside has / where it would have a comma:
    ``per_head:default=sink_recent:sinks=4/recent=64,H0+H3=full``.

    Raises `ValueError` for heads that cannot be read or are named twice, and, when applied, for a head that a layer
    does not have. Budgets by head as in DuoAttention (arXiv 2410.10819).
    """
    need_count("per_head", "block", block, "it counts the queries that share a list")
    given = tuple((_places(key), one) for key, one in heads.items())
    every = [place for places, _ in given for place in places]
    twice = [_text(place) for place in every if every.count(place) > 1]
    if not given or twice:
        raise ValueError(
            f"per_head was asked with {twice[0] + ' twice' if twice else 'no head'}; name each head once"
        )
    return PerHead(given, Full() if default is None else default, block)


def _places(key: str | int) -> tuple[Place, ...]:
    matches = [_HEAD.fullmatch(part) for part in (f"H{key}" if isinstance(key, int) else key).split("+")]
    if any(match is None for match in matches):
        raise ValueError(
            f"per_head was asked with {key!r}; a head is written H3, or L2.H3 in one layer, joined by +"
        )
    return tuple((None if m[1] is None else int(m[1]), int(m[2])) for m in matches if m is not None)


def _text(place: Place) -> str:
    layer, head = place
    return f"H{head}" if layer is None else f"L{layer}.H{head}"
