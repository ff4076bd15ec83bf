"""One dense call made of some blocks of queries and the keys that they list."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probe_kernels.block import Inputs
from probe_kernels.mask import Mask, Predicate, Tile
from probe_kernels.types import Layout, Match, Scores, Want


def split(tensor: Tensor, axis: int, number: int) -> Tensor:
    """A view with one axis as two, of which the first (axis 1) or the second (axis 0) has the given length."""
    size, rest = tensor.shape[:axis], tensor.shape[axis + 1 :]
    other = tensor.shape[axis] // number
    return tensor.view(*size, *((number, other) if axis else (other, number)), *rest)


@dataclass(frozen=True)
class Lists:
    """Lists of keys, one for each of `of` equal runs of heads: all heads, the heads of a key head, or single heads."""

    scores: Scores  # with key and value in the dtype of the sweep, contiguous
    layout: Layout
    of: int

    @staticmethod
    def over(inputs: Inputs, layout: Layout, of: int) -> "Lists":
        """The tensors of a call, ready to be gathered from."""
        value = None if inputs.value is None else inputs.value.contiguous()
        return Lists(replace(inputs.scores, key=inputs.key.contiguous(), value=value), layout, of)

    @property
    def heads(self) -> int:
        """Query heads that share a list."""
        return self.scores.query.shape[1] // self.of


@dataclass(frozen=True)
class Unit:
    """Queries `rows` of the lists `pick`, over the keys ``index [b, m, T]`` where they are ``listed``.

    Sequences times lists make the batch of the dense call, the heads of a list its heads.
    """

    lists: Lists
    rows: slice
    pick: list[int]
    index: Tensor  # [b, m, T], every entry a key; ascending where listed
    listed: Tensor | None  # bool [b, m, T]; None: all of them

    @property
    def whole(self) -> bool:
        """Whether it holds every list."""
        return len(self.pick) == self.lists.of

    def scores(self) -> Scores:
        """The scores of the call."""
        one = self.lists.scores
        sinks = one.sinks
        if sinks is not None and (sinks.ndim == 3 or not self.whole or self.lists.of > 1):
            sinks = sinks[None, :, None] if sinks.ndim == 1 else sinks[:, :, self.rows]
            sinks = self._by_list(sinks.expand(one.query.shape[0], -1, self.rows.stop - self.rows.start))
        bias = None if one.bias is None else self._bias(one.bias)
        if one.alibi is not None and self.lists.of > 1:
            gaps = self._gaps(one.alibi)
            bias = gaps if bias is None else bias + gaps
        return replace(
            one,
            query=self._by_list(one.query[:, :, self.rows]),
            key=self._taken(one.key),
            value=None if one.value is None else self._taken(one.value),
            sinks=sinks,
            bias=bias,
            alibi=one.alibi if self.lists.of == 1 else None,
        )

    def layout(self) -> Layout:
        """Where its queries and keys lie: the positions, segments and rules of the call."""
        one = self.lists.layout
        real = self.listed
        if one.key_real is not None:
            real = self._at(one.key_real) if real is None else self._at(one.key_real) & real
        return Layout(
            self._mask(one.mask),
            self._of_rows(one.query_pos),
            self._positions(one.key_pos),
            None if one.query_segment is None else self._of_rows(one.query_segment),
            None if one.key_segment is None else self._flat(self._at(one.key_segment)),
            None if one.query_real is None else self._of_rows(one.query_real),
            None if real is None else self._flat(real),
        )

    def want(self, want: Want) -> Want:
        """The same wants, with their labels and ids at the unit's queries and keys."""
        matches = {
            name: Match(self._of_rows(one.query_ids), self._flat(self._at(one.key_ids)))
            for name, one in want.matches.items()
        }
        groups = {name: self._flat(self._at(ids)) for name, ids in want.key_groups.items()}
        turns = {name: self._of_rows(ids) for name, ids in want.query_groups.items()}
        return replace(want, matches=matches, key_groups=groups, query_groups=turns)

    def _batch(self) -> int:
        return self.lists.scores.query.shape[0]

    def _by_list(self, tensor: Tensor) -> Tensor:
        """``[B, H, ...]`` as ``[B * m, heads of a list, ...]``."""
        apart = split(tensor, 1, self.lists.of)
        return (apart if self.whole else apart[:, self.pick]).flatten(0, 1)

    def _of_rows(self, tensor: Tensor) -> Tensor:
        """``[b, Q, ...]`` at the unit's rows, once for each list."""
        cut = tensor[:, self.rows]
        return cut if cut.shape[0] == 1 else cut.repeat_interleave(len(self.pick), dim=0)

    def _at(self, tensor: Tensor) -> Tensor:
        """``[b, K]`` at the unit's keys, ``[b, m, T]``."""
        if self.index.shape[0] == 1 and tensor.shape[0] == 1:
            return tensor[0][self.index]
        batch, index = self._batch(), self.index
        flat = index.expand(batch, -1, -1).flatten(1)
        return tensor.expand(batch, -1).gather(1, flat).view(batch, *index.shape[1:])

    def _flat(self, tensor: Tensor) -> Tensor:
        """``[b, m, T]`` as ``[1 or B * m, T]``."""
        if tensor.shape[0] == 1 and tensor.shape[1] > 1:
            tensor = tensor.expand(self._batch(), -1, -1)
        return tensor.flatten(0, 1)

    def _positions(self, key_pos: Tensor) -> Tensor:
        """Positions of the keys; what only fills up lies after the last of them, so that they still ascend."""
        pos = self._at(key_pos)
        if self.listed is not None:
            least = torch.iinfo(torch.int64).min
            last = torch.where(self.listed, pos, least).amax(-1, keepdim=True)
            fill = torch.where(last == least, 0, last) + (~self.listed).cumsum(-1)
            pos = torch.where(self.listed, pos, fill)
        return self._flat(pos)

    def _taken(self, tensor: Tensor) -> Tensor:
        """Keys or values ``[B, Hk, K, D]`` at the unit's keys, ``[B * m, key heads of a list, T, D]``."""
        batch, kv_heads, n_key, width = tensor.shape
        of, index = self.lists.of, self.index
        if of == 1 and index.shape[0] == 1:
            return self._in_a_row(tensor, index[0, 0])
        per_list = max(1, kv_heads // of)
        heads = torch.tensor(self.pick, device=index.device) * kv_heads // of
        first = torch.arange(batch, device=index.device)[:, None] * kv_heads + heads  # [B, m]
        start = (first[:, :, None] + torch.arange(per_list, device=index.device)) * n_key
        flat = start[..., None] + index.expand(batch, -1, -1)[:, :, None]  # [B, m, key heads, T]
        taken = tensor.view(-1, width).index_select(0, flat.flatten())
        return taken.view(batch * len(self.pick), per_list, -1, width)

    def _in_a_row(self, tensor: Tensor, index: Tensor) -> Tensor:
        """Axis 2 at some indices; a view where they are neighbours."""
        first, last = int(index[0]), int(index[-1])
        if self.listed is None and last - first + 1 == index.shape[0]:
            return tensor[:, :, first : last + 1]
        return tensor.index_select(2, index)

    def _bias(self, bias: Tensor) -> Tensor:
        one = self.lists.scores
        size = (*one.query.shape[:3], one.key.shape[2])
        bias = self._by_list(bias.expand(size)[:, :, self.rows])
        index = self.index.expand(self._batch(), -1, -1).flatten(0, 1)[:, None, None]
        return bias.gather(3, index.expand(*bias.shape[:3], -1))

    def _gaps(self, alibi: Tensor) -> Tensor:
        """What ALiBi adds, as a bias: lists share a batch, and their slopes differ."""
        layout = self.lists.layout
        gap = self._of_rows(layout.query_pos)[:, :, None] - self._positions(layout.key_pos)[:, None]
        slopes = self._by_list(alibi[None].expand(self._batch(), -1))
        return -slopes[:, :, None, None] * gap[:, None]

    def _mask(self, mask: Mask) -> Mask:
        return Mask(tuple(map(self._moved, mask.all_of)), tuple(map(self._moved, mask.any_of)))

    def _moved(self, rule: Predicate) -> Predicate:
        """A rule that may index a user's tensor by storage, asked at the storage places of queries and keys."""
        if rule.twin is not None:
            return rule
        one, start = self.lists.layout, self.rows.start

        def visible(tile: Tile) -> Tensor:
            rows = slice(start + tile.rows.start, start + tile.rows.stop)
            index = self.index[:, :, tile.keys]
            lo, hi = (int(end) for end in index.aminmax())
            keys = slice(lo, hi + 1)
            there = Tile(
                one.query_pos[:, rows, None],
                one.key_pos[:, None, keys],
                None if one.query_segment is None else one.query_segment[:, rows, None],
                None if one.key_segment is None else one.key_segment[:, None, keys],
                rows,
                keys,
            )
            seen = rule.visible(there)
            seen = seen.expand(-1, rows.stop - rows.start, keys.stop - keys.start)
            if index.shape[0] == 1 and index.shape[1] == 1:
                return seen[..., index[0, 0] - lo]
            size = max(seen.shape[0], index.shape[0], self._batch())
            seen = seen.expand(size, -1, -1).repeat_interleave(index.shape[1], dim=0)
            places = (index.expand(size, -1, -1).flatten(0, 1) - lo)[:, None]
            return seen.gather(2, places.expand(-1, seen.shape[1], -1))

        return replace(rule, visible=visible, relative=False)
