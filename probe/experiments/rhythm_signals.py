"""What the rhythm is made of: how far each head looks, and the two signals of a group of heads, streamed per token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import wanted
from probe.metrics.rows import mass_want, row_mass
from probe.seam.call import AttentionCall

Heads = Mapping[int, Sequence[int]]  # layer -> heads


def _reads(call: AttentionCall) -> bool:
    """Whether a call is causal self-attention of the decoder."""
    return call.place.tower == "decoder" and call.causal


@dataclass
class HeadDistance:
    """An observer of the mean attended distance of every head, D_t = Σ_s p_ts (t − s), over the rows of a stretch.

    With `sink` false the first token of the text has no part in it: the mean distance of the remaining mass,
    Σ_t Σ_{s>0} p_ts (t − s) / Σ_t Σ_{s>0} p_ts. `total` and `weight` hold, per layer, the two sums of each head.
    """

    start: int
    stop: int
    sink: bool = True
    total: dict[int, Float[Tensor, "head"]] = field(default_factory=dict)
    weight: dict[int, Float[Tensor, "head"]] = field(default_factory=dict)

    def want(self, call: AttentionCall) -> Want:
        """The distance, and the mass on the first token where that is left out."""
        if not _reads(call):
            return Want(z=False)
        need = Want(z=False, distance=True)
        return (
            need
            if self.sink
            else need | mass_want(call) | Want(z=False, key_groups={self._name: self._first(call)})
        )

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Add the rows of the stretch."""
        if not _reads(call):
            return
        index = call.query_index[0]
        rows = (index >= self.start) & (index < self.stop)
        distance = wanted(attended.distance, "distance")[0][:, rows].double()
        mass = torch.ones_like(distance)
        if not self.sink:
            first = attended.key_groups[self._name][0][:, rows, 0].double()
            distance = distance - first * index[rows]
            mass = row_mass(call, attended)[0][:, rows].double() - first
        layer = call.place.layer
        self.total[layer] = self.total.get(layer, 0.0) + distance.sum(-1).cpu()
        self.weight[layer] = self.weight.get(layer, 0.0) + mass.clamp_min(0.0).sum(-1).cpu()

    @property
    def _name(self) -> str:
        return f"first token {id(self)}"

    def _first(self, call: AttentionCall) -> Tensor:
        return torch.where(call.key_index == 0, 0, -1).to(torch.int16)


@dataclass
class GroupSignals:
    """An observer of WAAD of the local heads and FAI of the global ones, one sum per token; no pattern is kept.

    The mean over heads is taken last: WAAD_t = mean_h Σ_s p_ts min(t − s, W), and FAI_s = mean_h of the mean over
    T(s) = {t : s + lo <= t <= s + hi, t in the stretch} of p_ts. A key that a sliding window hides receives 0 from
    the rows of T(s) that cannot see it.
    """

    near: Heads
    far: Heads
    window: int
    band: tuple[int, int]
    length: int
    _near: Float[np.ndarray, "token"] = field(init=False)
    _far: Float[np.ndarray, "token"] = field(init=False)

    def __post_init__(self) -> None:
        self._near, self._far = np.zeros(self.length), np.zeros(self.length)

    def want(self, call: AttentionCall) -> Want:
        """Diagonals of the window where the layer has local heads, the band where it has global ones."""
        need, layer = Want(z=False), call.place.layer
        if _reads(call) and self.near.get(layer):
            need = need | Want(z=False, offsets=tuple(range(self.window))) | mass_want(call)
        if _reads(call) and self.far.get(layer):
            need = need | Want(z=False, bands=(self.band,))
        return need

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Add what the heads of this layer say of each token."""
        if not _reads(call):
            return
        near, far = (list(group.get(call.place.layer, ())) for group in (self.near, self.far))
        if near:
            clipped = self.window * row_mass(call, attended)[0, near].double()
            for offset in range(self.window):
                clipped = clipped - (self.window - offset) * attended.offsets[offset][0, near].double()
            _add(self._near, call.query_index[0], clipped.clamp_min(0.0).sum(0))
        if far:
            _add(self._far, call.key_index[0], attended.bands[self.band][0, far].double().sum(0))

    def waad(self, start: int, stop: int) -> Float[np.ndarray, "token"]:
        """WAAD of the stretch, in tokens, 0 to the window; NaN where there are no local heads."""
        return self._near[start:stop] / _count(self.near)

    def fai(self, start: int, stop: int) -> Float[np.ndarray, "token"]:
        """FAI of the stretch, a probability; NaN for tokens without a query in their horizon."""
        lo, hi = self.band
        at = np.arange(start, stop)
        queries = np.minimum(stop - 1, at + hi) - (at + lo) + 1.0
        return self._far[start:stop] / np.where(queries > 0, queries, np.nan) / _count(self.far)


def _count(heads: Heads) -> float:
    return float(sum(map(len, heads.values()))) or np.nan


def _add(sums: np.ndarray, index: Tensor, values: Tensor) -> None:
    at, found = index.cpu().numpy(), values.cpu().numpy()
    np.add.at(sums, at[at >= 0], found[at >= 0])
