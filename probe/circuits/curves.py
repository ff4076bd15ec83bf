"""Faithfulness and completeness of ever larger circuits, beside random ones of equal size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.circuits.controls import any_matched
from probe.circuits.faithfulness import Faithfulness
from probe.circuits.members import Member
from probe.circuits.reporting import labelled
from probe.report.intervals import weighed_bounds

LEVEL = 0.95


@dataclass(frozen=True)
class Curves:
    """What circuits of several sizes keep of the difference, and what is left without them, per pair."""

    sizes: tuple[int, ...]
    kept: Float[Tensor, "size pair"]
    removed: Float[Tensor, "size pair"]
    random: Float[Tensor, "size seed"]  # faithfulness of random circuits, mean over pairs

    def arrays(self, seed: int) -> dict[str, xr.DataArray]:
        """As labelled arrays: ``curve`` (size, kind), ``interval`` (size, bound), ``random`` (size, seed)."""
        sizes = list(self.sizes)
        both = torch.stack([self.kept.mean(-1), self.removed.mean(-1)], dim=-1)
        per_pair = self.kept.T.numpy()
        bounds = weighed_bounds(per_pair, np.ones_like(per_pair), LEVEL, seed).T
        return {
            "curve": labelled(both, size=sizes, kind=["faithfulness", "completeness"]),
            "interval": labelled(bounds, size=sizes, bound=["low", "high"]),
            "random": labelled(self.random, size=sizes, seed=list(range(self.random.shape[1]))),
        }

    def smallest(self, goal: float) -> int | None:
        """The place of the smallest size that keeps at least `goal` of the difference; None where none does."""
        enough = (self.kept.mean(-1) >= goal).nonzero()
        return int(enough[0]) if len(enough) else None


def curves(judge: Faithfulness, order: Sequence[Member], sizes: Sequence[int], seeds: int) -> Curves:
    """The curves of the first nodes of an order, with `seeds` random circuits (`random_circuit`) of every size."""
    circuits = [list(order[:size]) for size in sizes]
    drawn = np.random.default_rng(judge.case.options.seed)
    random = [random_circuit(one, judge.everything, drawn) for one in circuits for _ in range(seeds)]
    judge.case.options.tell(0, 3, "faithfulness of circuits")
    kept = judge.kept(circuits)
    judge.case.options.tell(1, 3, "completeness of circuits")
    removed = judge.removed(circuits)
    judge.case.options.tell(2, 3, "faithfulness of random circuits")
    by_chance = judge.kept(random).mean(-1).reshape(len(circuits), seeds)
    judge.case.options.tell(3, 3, "circuits")
    return Curves(tuple(sizes), kept, removed, by_chance)


def random_circuit(
    circuit: Sequence[Member], everything: Sequence[Member], drawn: np.random.Generator
) -> list[Member]:
    """As many random heads in every layer as the circuit has there, and as many random MLPs as it has in all."""
    counts = {
        layer: sum(one.layer == layer for one in everything if one.node == "z")
        for layer in {one.layer for one in everything}
    }
    heads: dict[int, tuple[int, ...]] = {}
    for one in circuit:
        if one.node == "z":
            heads[one.layer] = (*heads.get(one.layer, ()), one.unit)
    mlps = [one for one in everything if one.node == "mlp_out"]
    wanted = sum(one.node == "mlp_out" for one in circuit)
    made = [
        Member(layer, "z", unit)
        for layer, units in any_matched(heads, counts, drawn).items()
        for unit in units
    ]
    return made + [mlps[n] for n in drawn.permutation(len(mlps))[:wanted]]


def sizes_to(total: int, most: int) -> tuple[int, ...]:
    """0, 1, 2, 4 and so on up to `most`, then all there are."""
    doubled = [0, *(2**power for power in range(64) if 2**power <= most), most, total]
    return tuple(sorted({size for size in doubled if size <= total}))
