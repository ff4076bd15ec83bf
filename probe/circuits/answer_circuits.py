"""The circuit at the last position: heads and MLPs added until they carry the answer (Basu et al. 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.controls import Chosen, Units, matched, together
from probe.circuits.nodes import Key
from probe.circuits.patching import patch_each
from probe.circuits.study import Study
from probe.circuits.tables import Effects
from probe.circuits.where import Where

RANDOM_SETS = 5
_STEP = 8  # sizes of the circuit that are tried in one go

Component = tuple[Key, int]  # a node of a layer, and its unit


@dataclass(frozen=True)
class AnswerCircuit:
    """Components in the order in which they were added, and the share that is recovered behind each."""

    components: tuple[Component, ...]
    recovered: Float[Tensor, " component"]
    random: Float[Tensor, " draw"]  # recovered by as many random components
    heads: Effects  # recovery of each head alone
    mlps: Effects

    @property
    def chosen(self) -> dict[int, tuple[int, ...]]:
        """The heads of the circuit, by layer."""
        found: dict[int, list[int]] = {}
        for (node, layer), unit in self.components:
            if node == "z":
                found.setdefault(layer, []).append(unit)
        return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}

    @property
    def names(self) -> list[str]:
        """The components as they are written: ``L3.H1``, ``L4.MLP``."""
        return [named(one) for one in self.components]


def named(component: Component) -> str:
    """A component as it is written."""
    (node, layer), unit = component
    return f"L{layer}.H{unit}" if node == "z" else f"L{layer}.MLP"


def answer_circuit(case: Study, delta: float) -> AnswerCircuit:
    """Add components at the last position, those that recover most alone first, until `delta` is recovered.

    The order is ranked once; it is not greedy, for which every component would be tried again beside those that are in.
    Values of the clean run go into the corrupt one. All components together recover everything but what the last token
    itself says, which is the same on both sides: the search always ends.
    """
    end = Where.of("end", case.pairs)
    heads, mlps = (patch_each(case, node, end) for node in ("z", "mlp_out"))
    ranked = _ranked(heads, mlps)
    kept: list[Tensor] = []
    size = len(ranked)
    for start in range(0, len(ranked), _STEP):
        sets = [units_of(ranked[: n + 1]) for n in range(start, min(start + _STEP, len(ranked)))]
        kept.append(together(case, sets, "corrupt", "end").mean(-1))
        reached = (kept[-1] >= delta).nonzero()
        if len(reached):
            size = start + int(reached[0]) + 1
            break
    circuit = ranked[:size]
    random = together(case, _random(case, circuit, heads, mlps), "corrupt", "end").mean(-1)
    return AnswerCircuit(tuple(circuit), torch.cat(kept)[:size], random, heads, mlps)


def units_of(components: Sequence[Component]) -> Units:
    """Components by node and layer."""
    made: dict[Key, list[int]] = {}
    for key, unit in components:
        made.setdefault(key, []).append(unit)
    return {key: tuple(units) for key, units in made.items()}


def _ranked(heads: Effects, mlps: Effects) -> list[Component]:
    scored: list[tuple[float, Component]] = []
    for effects in (heads, mlps):
        for layer, scores in effects.scores.items():
            for unit, value in enumerate(scores.mean(-1).sum(-1).tolist()):
                scored.append((value, ((effects.node, layer), unit)))
    return [component for _, component in sorted(scored, key=lambda one: -one[0])]


def _random(case: Study, circuit: Sequence[Component], heads: Effects, mlps: Effects) -> list[Units]:
    """As many other heads in the same layers (any, where there are too few others), and as many random MLPs."""
    drawn = np.random.default_rng(case.options.seed)
    counts = {layer: len(one) for layer, one in heads.scores.items()}
    found = AnswerCircuit(tuple(circuit), torch.empty(0), torch.empty(0), heads, mlps)
    n_mlps = len(circuit) - sum(len(some) for some in found.chosen.values())
    sets = []
    for _ in range(RANDOM_SETS):
        some: Chosen = matched(found.chosen, counts, drawn)
        layers = drawn.choice(sorted(mlps.scores), n_mlps, replace=False).tolist()
        sets.append(
            {**{("z", layer): one for layer, one in some.items()}, **{("mlp_out", n): (0,) for n in layers}}
        )
    return sets  # type: ignore[return-value]
