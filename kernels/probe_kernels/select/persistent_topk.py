"""Keys that a few layers choose and all later layers keep: positions persist across layers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from probe_kernels.select.base import Selection, Site
from probe_kernels.select.choose import everything, forced_keys, indices_of_largest
from probe_kernels.select.sight import Sight
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit


@dataclass(frozen=True)
class Choice:
    """What a layer has left: the storage indices that it chose, and at which positions its keys lay."""

    layer: int
    index: Tensor  # int64 [B, H, I, k], -1 = none
    key_pos: Tensor  # int64 [B, K]
    key_real: Tensor  # bool [B, K]


@dataclass(frozen=True)
class PersistentTopK:
    """See `persistent_topk`."""

    k: int = 256
    layers: tuple[int, ...] = (2, 13)
    block: int = 64
    keep_first: bool = True
    keep_diagonal: bool = True

    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_count("persistent_topk", "k", self.k, "it counts the keys that are kept")
        need_count("persistent_topk", "block", self.block, "it counts the queries that choose together")
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError(
                "persistent_topk was asked without layers; name at least one that chooses, as layers=2+13"
            )
        for layer in self.layers:
            need_count("persistent_topk", "layers", layer, "they are the layers that choose", least=0)

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("persistent_topk", **vars(self))

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """Everything up to and in the layers that choose; what the last of them chose in all others."""
        with torch.no_grad():
            sight = Sight(scores, layout)
            due = max((layer for layer in self.layers if layer <= site.layer), default=None)
            if due is None or sight.n_key <= self.block:
                return everything(sight)
            memory: dict[str, Any] = site.memory
            blocks = -(-sight.n_query // self.block)
            key = f"{self.name} of {sight.batch} rows, {sight.heads} heads, {blocks} blocks"
            choice = memory.get(key)
            if choice is None or choice.layer < due or choice.layer == site.layer:
                memory[key] = self._choose(sight, site.layer)
                return everything(sight)
            return Selection(visit=self._kept(sight, choice))

    def _choose(self, sight: Sight, layer: int) -> Choice:
        parts = []
        for rows in sight.ground.runs(self.block):
            parts.append(indices_of_largest(_standing(sight, rows), self.k))
        key_pos = sight.layout.key_pos.expand(sight.batch, -1)
        return Choice(layer, torch.stack(parts, dim=2), key_pos, sight.key_real)

    def _kept(self, sight: Sight, choice: Choice) -> Visit:
        index = _moved(choice, sight)
        size = (*index.shape[:3], sight.n_key + 1)
        kept = torch.zeros(size, dtype=torch.bool, device=sight.device)
        kept = kept.scatter(3, torch.where(index < 0, sight.n_key, index), True)[..., : sight.n_key]
        forced = forced_keys(
            sight, self.block, self.block, first=self.keep_first, diagonal=self.keep_diagonal
        )
        return Visit.of_keys((kept | forced) & sight.seen(self.block), self.block)


def persistent_topk(
    k: int = 256,
    layers: tuple[int, ...] = (2, 13),
    block: int = 64,
    keep_first: bool = True,
    keep_diagonal: bool = True,
) -> PersistentTopK:
    """The `layers` attend to everything and choose `k` keys per head; later layers keep the same positions.

    Layers before the first of them attend to everything. In decoding each query chooses by its scores; in prefill each
    block of `block` queries by its mean softmax over the visible keys. The first and the diagonal block come on top of
    the k. Where a layer of the list has no attention, the next one that has chooses in its place. What was chosen is
    kept in the `memory` of the site, which lives for one forward, and is found again by logical position where a later
    layer stores its keys otherwise, as sliding caches do.

    Raises `ValueError` where a number is out of range. TidalDecode, arXiv 2410.05076.
    """
    return PersistentTopK(k, layers, block, keep_first, keep_diagonal)


def _standing(sight: Sight, rows: slice) -> Tensor:
    """What keys are ranked by, ``[B, H, K]``: their mass, or the scores of a single row; -inf where nothing is."""
    if rows.stop - rows.start > 1:
        mass = sight.probs(rows).double().sum(2).to(sight.inputs.dtype)
        return mass.masked_fill(mass == 0, -torch.inf)
    # Ranked alike by softmax, where scores far below the best would all be 0.
    return sight.strip(rows)[:, :, 0].masked_fill(~sight.query_real[:, rows, None], -torch.inf)


def _moved(choice: Choice, sight: Sight) -> Tensor:
    """The choice as storage indices of this call's keys; -1 for keys that it no longer stores."""
    key_pos = sight.layout.key_pos.expand(sight.batch, -1)
    if torch.equal(key_pos, choice.key_pos):
        return choice.index
    none = torch.iinfo(torch.int64).max
    flat = choice.index.flatten(1)
    wanted = choice.key_pos.gather(1, flat.clamp_min(0)).masked_fill(flat < 0, none - 1)
    stored, order = key_pos.masked_fill(~sight.key_real, none).sort(dim=1, stable=True)
    place = torch.searchsorted(stored, wanted).clamp_max(stored.shape[1] - 1)
    found = torch.where(stored.gather(1, place) == wanted, order.gather(1, place), -1)
    return found.reshape(choice.index.shape)
